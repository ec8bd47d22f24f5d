"""How far values may be off, as TensorBoard draws it: further curves, below and above."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from curvwatch.charts import ERRORS, errors_of, half_widths, has_place


def has_margin(metric: str) -> bool:
    """Whether values of `metric` get curves below and above them; those of layers would be too many."""
    return metric in ERRORS and not has_place(metric)


def low_of(name: str) -> str:
    """The curve below that of the metric `name`, which may have the suffix of an optimizer."""
    metric, dash, optimizer = name.partition("-")
    return f"{metric}_low{dash}{optimizer}"


def high_of(name: str) -> str:
    """The curve above it."""
    metric, dash, optimizer = name.partition("-")
    return f"{metric}_high{dash}{optimizer}"


def margins(values: Mapping[str, float]) -> dict[str, float]:
    """Lower and upper bounds of each of `values` whose error is known; nan where it is missing.

    That of sharpness is the solver's bound, `residual` x sharpness, and on top, where the probe has
    several batches, two standard errors of their mean: how far the whole loss may be from the probe.
    """
    bounds = {}
    for name, value in values.items():
        if has_margin(name.partition("-")[0]):
            errors = errors_of(name)
            others = {
                of: np.array([values[of]]) for e in errors for of in (e.metric, e.per) if of in values
            }
            error = float(half_widths(np.array([value]), errors, others)[0])
            bounds[low_of(name)], bounds[high_of(name)] = value - error, value + error
    return bounds
