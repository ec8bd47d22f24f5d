"""A run in a few numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from curvwatch.report.logs import LoggedCurve, LoggedRun
from curvwatch.results.loggers import RUN_COST_SHARE

# at the edge a single reading may be anywhere in an oscillation
LAST_READINGS = 5
LOSS = "curvature/loss"
_RATIO = "curvature/stability_ratio"


class UserMetric(NamedTuple):
    """A metric that the user asked for.

    Attributes:
        name: of it.
        largest: whether the largest value is the best, as that of an accuracy is.
    """

    name: str
    largest: bool = False


PROBE_LOSS = UserMetric(LOSS)
# of its start, by which a loss gets better in a run that trains
_IMPROVED = 0.01


class Ends(NamedTuple):
    """Last and best value of a metric; None: there is none."""

    last: float | None
    best: float | None


@dataclass(frozen=True)
class Summary:
    """What the table says of a run; None is a value that is missing.

    Where a run has several optimizers or groups of weights, each number is the worst of theirs.

    Attributes:
        name: of the run.
        final_loss: the last value of the loss; nan where that is what was logged last.
        best_loss: the lowest one.
        sharpness: median of the last 5 finite readings.
        over_edge: the share of readings with a stability ratio over 1.
        first_over: the first step of such a reading; inf where there was none.
        directional_sharpness: median over the run.
        gradient_correlation: median over the run.
        alerts: how many; None where the kind of log has no place for them.
        cost_share: the share of the training time that readings took.
        cost_seconds: of all readings, where the share is unknown.
        others: of the metrics that were asked for, in order.
        trained: whether its loss ended better than it began, by 1 % at least, or that is unknown.
    """

    name: str
    final_loss: float | None
    best_loss: float | None
    sharpness: float | None
    over_edge: float | None
    first_over: float | None
    directional_sharpness: float | None
    gradient_correlation: float | None
    alerts: int | None
    cost_share: float | None
    cost_seconds: float | None
    others: tuple[Ends, ...] = field(default=())
    trained: bool = True


def summarize(
    run: LoggedRun, loss: UserMetric = PROBE_LOSS, others: Sequence[UserMetric] = ()
) -> Summary:
    """The numbers of `run`; `loss` says which metric is its loss."""
    final, best = _ends(run, loss)
    sharpness = variants(run, "curvature/sharpness")
    steps, ratios = _worst(run, _RATIO)
    over = ratios > 1
    return Summary(
        name=run.name,
        final_loss=final,
        best_loss=best,
        sharpness=_largest(_median(curve, last=LAST_READINGS) for curve in sharpness),
        over_edge=float(over.mean()) if len(over) else None,
        first_over=(float(steps[over][0]) if over.any() else math.inf) if len(over) else None,
        directional_sharpness=_largest(map(_median, variants(run, "step/directional_sharpness"))),
        gradient_correlation=_largest(map(_median, variants(run, "step/gradient_correlation"))),
        alerts=None if run.kind == "csv" or not run.curves else len(run.alerts),
        # of the whole run, else of what it was at the last reading
        cost_share=_largest(_last_finite(c) for c in variants(run, RUN_COST_SHARE))
        or _largest(_last_finite(c) for c in variants(run, "curvature/cost_share")),
        cost_seconds=_largest(_sum(c) for c in variants(run, "curvature/cost_seconds")),
        others=tuple(_ends(run, other) for other in others),
        trained=all(_improved(curve, loss) for curve in variants(run, loss.name)),
    )


def variants(run: LoggedRun, metric: str) -> list[LoggedCurve]:
    """The curves of `metric`, with or without the suffix of an optimizer or group."""
    return [run.curves[name] for name in variant_names(run, metric)]


def variant_names(run: LoggedRun, metric: str) -> list[str]:
    """`metric` itself, "-Adam" and "/pg1" behind it, as far as the run has them."""
    return [n for n in run.curves if n == metric or n.startswith((metric + "-", metric + "/"))]


def _ends(run: LoggedRun, wanted: UserMetric) -> Ends:
    exact = run.curves.get(wanted.name)
    ends = [_ends_of(c, wanted) for c in ([exact] if exact else variants(run, wanted.name))]
    worst = min if wanted.largest else max
    # a nan is the worst of all, and max() would pass over it
    lasts = sorted((e.last for e in ends if e.last is not None), key=math.isnan, reverse=True)
    bests = [e.best for e in ends if e.best is not None]
    last = None if not lasts else lasts[0] if math.isnan(lasts[0]) else worst(lasts)
    return Ends(last, worst(bests, default=None))


def _improved(curve: LoggedCurve, loss: UserMetric) -> bool:
    """Whether it ends better than it began; also where there is too little to compare."""
    if len(curve.values) < 2 or math.isnan(curve.values[0]):
        return True
    first, last = float(curve.values[0]), float(curve.values[-1])
    better = last - first if loss.largest else first - last
    return better > _IMPROVED * abs(first)


def _ends_of(curve: LoggedCurve, wanted: UserMetric) -> Ends:
    known = curve.values[~np.isnan(curve.values)]
    if not len(known):
        return Ends(None, None)
    return Ends(float(curve.values[-1]), float(known.max() if wanted.largest else known.min()))


def _worst(run: LoggedRun, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and the largest value of all variants at each, without those that are missing."""
    curves = variants(run, metric)
    if not curves:
        return np.empty(0, dtype=np.int64), np.empty(0)
    at = np.concatenate([c.steps for c in curves])
    values = np.concatenate([c.values for c in curves])
    at, values = at[~np.isnan(values)], values[~np.isnan(values)]
    steps, where = np.unique(at, return_inverse=True)
    largest = np.full(len(steps), -np.inf)
    np.maximum.at(largest, where, values)
    return steps, largest


def _median(curve: LoggedCurve, last: int | None = None) -> float | None:
    finite = curve.values[np.isfinite(curve.values)]
    if not len(finite):
        return None
    return float(np.median(finite if last is None else finite[-last:]))


def _last_finite(curve: LoggedCurve) -> float | None:
    finite = curve.values[np.isfinite(curve.values)]
    return float(finite[-1]) if len(finite) else None


def _sum(curve: LoggedCurve) -> float | None:
    finite = curve.values[np.isfinite(curve.values)]
    return float(finite.sum()) if len(finite) else None


def _largest(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known, default=None)
