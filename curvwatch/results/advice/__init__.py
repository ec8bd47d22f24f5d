"""Advice on the learning rate, from the readings of a run: docs/advice.md."""

from curvwatch.results.advice.advice import Advice, Advices, advise, advise_curves
from curvwatch.results.advice.evidence import Warmup

__all__ = ["Advice", "Advices", "Warmup", "advise", "advise_curves"]
