"""What raises an alert: a function from a record to the steps at which one begins.

At step t all that is known after it may be used: its loss and gradient, and readings of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.alerts.label import running_median
from benchmarks.alerts.record import Record
from curvwatch.results.alerts import AlertEngine, Rule

Detector = Callable[[Record], list[int]]


def began(where: np.ndarray) -> list[int]:
    """The steps at which a condition begins to hold, from its values, shape (steps,)."""
    before = np.concatenate([[False], where[:-1]])
    return [int(t) for t in np.flatnonzero(where & ~before)]


def check_finite(record: Record) -> list[int]:
    """`EarlyStopping(check_finite=True)` on the training loss."""
    return began(~np.isfinite(record.loss))


def loss_spike(times: float) -> Detector:
    """The loss is over `times` its running median, of the losses so far in the first 50 steps."""
    return lambda r: began(~np.isfinite(r.loss) | _over(r.loss, times))


def gradient_norm(times: float) -> Detector:
    """The norm of the gradient, before clipping, is over `times` its running median so far."""
    return lambda r: began(~np.isfinite(r.gradient_norm) | _over(r.gradient_norm, times))


def bare_sharpness(times: float) -> Detector:
    """The largest Hessian eigenvalue is over `times` 2 / lr."""

    def detect(record: Record) -> list[int]:
        sharpness, edge = record.metric("curvature/sharpness"), record.metric("curvature/edge")
        known = np.flatnonzero(np.isfinite(sharpness) & np.isfinite(edge))
        over = sharpness[known] > times * edge[known]
        return [int(known[i]) for i in began(over)]

    return detect


def rules(given: Sequence[Rule], *, watch_finite: bool = True) -> Detector:
    """The engine of curvwatch with rules; the training loss is the metric "train_loss"."""

    def detect(record: Record) -> list[int]:
        engine = AlertEngine(given, watch_finite=watch_finite)
        broken: dict[int, list[tuple[str, float]]] = {}
        for step, name, value in record.broken:
            broken.setdefault(step, []).append((name, value))
        steps = []
        for t in range(record.steps):
            values = {n: float(of[t]) for n, of in record.values.items() if not np.isnan(of[t])}
            values["train_loss"] = float(record.loss[t])
            if engine.observe(t, values, broken.get(t, [])):
                steps.append(t)
        return steps

    return detect


def _over(values: np.ndarray, times: float) -> np.ndarray:
    return values > times * running_median(values)
