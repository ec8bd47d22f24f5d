"""Permutations of hidden units that bring two networks together."""

from curvwatch.landscape.alignment.align import align
from curvwatch.landscape.alignment.result import Aligned

__all__ = ["Aligned", "align"]
