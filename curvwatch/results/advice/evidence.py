"""From the readings of one optimizer to the largest learning rate that they support."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from curvwatch.results.advice.rates import (
    Curves,
    LandscapeSeries,
    Steps,
    landscapes,
    ratio_of_step,
    soon_after,
    steps_of,
    usable,
)
from curvwatch.results.advice.refusals import NoAdviceError, check_count, check_loss

RATIO = "curvature/stability_ratio"
_LEAST_LATE, _LEAST_STEPS = 4, 5
# the rate at the edge in the last quarter over that in the third: sharpness rises still, or quickly
RISES, _RISES_QUICKLY = 0.8, 0.5
_SHARPER_AT_FIRST = 1.5  # times the settled sharpness, from which a warmup is advised
_AT_EDGE = 0.8
# at the edge of stability steps have a ratio near 1, or come there now and then
_FAR_FROM_EDGE = 0.5
# relative scatter of the steps' ratio about its own trend: batches that differ have .2 and more, a full
# batch .05 at most
_NOISY = 0.1
# of a normal distribution: standard error of a median, and sigma over the median absolute deviation
_OF_MEDIAN, _OF_DEVIATION = 1.2533, 1.4826


class Warmup(NamedTuple):
    """A learning rate to hold, and a linear rise from it to the advised one.

    Attributes:
        learning_rate: to begin with.
        start: the optimizer step at which the rise begins; 0: it is not held.
        until: the optimizer step at which the advised one is reached.
    """

    learning_rate: float
    start: int
    until: int


@dataclass(frozen=True)
class Evidence:
    """What the readings of one optimizer say; learning rates are the largest of its groups.

    Attributes:
        used: the readings of the landscape, in the order of their steps.
        current: the largest learning rate of the run.
        rate: the largest that is supported.
        low: under it, see `Advice`.
        high: over it.
        warmup: what comes before; None: nothing.
        held: whether the run has settled at its edge of stability, and its loss falls.
        doubted: whether steps contradict that: batches differ, and next to none comes near a ratio of
            1. With a full batch ratios may stay far under 1 until the sharp direction dominates.
        with_steps: whether enough steps were read.
        with_stderr: whether the probe has several batches.
        numbers: all that it was made of, by name.
    """

    used: LandscapeSeries
    current: float
    rate: float
    low: float
    high: float
    warmup: Warmup | None
    held: bool
    doubted: bool
    with_steps: bool
    with_stderr: bool
    numbers: dict[str, float]


def evidence(
    curves: Curves,
    suffix: str,
    doubtful: Mapping[str, Collection[int]],
    notes: Sequence[tuple[int, str]],
) -> Evidence:
    """What the curves of the optimizer with `suffix` say.

    Raises:
        NoAdviceError: they do not allow advice.
    """
    seen = landscapes(curves, suffix, doubtful)
    steps = steps_of(curves, suffix, doubtful, seen)
    used = usable(seen, steps)
    missed = [text for step, text in notes if step in curves[RATIO + suffix].steps]
    check_count(used, missed)
    middle = (used.steps[0] + used.steps[-1]) / 2
    settled = min(int(np.searchsorted(used.steps, middle)), len(used) - _LEAST_LATE)
    late = slice(settled, None)
    taken = _between(steps, int(used.steps[settled]), int(used.steps[-1]))
    with_steps = len(taken) >= _LEAST_STEPS
    of_step = float(np.median(taken.ratios)) if with_steps else math.nan
    chi = float(np.median(used.ratios[late]))
    first, last = check_loss(curves, suffix, used, steps, settled=settled, of_step=of_step)

    at_edge = used.at_edge[late]
    # a run that trains supports its own learning rate, also where readings are over the edge
    trains = of_step <= 1.0 if with_steps else math.isfinite(first)
    if trains:
        at_edge = np.maximum(at_edge, used.rates[late])
    quarters = [float(np.median(part)) for part in np.array_split(at_edge, 2)]
    rises = quarters[1] / quarters[0] if math.isfinite(quarters[0]) else 1.0
    level = min(quarters)
    if rises < _RISES_QUICKLY:
        raise NoAdviceError(
            f"the landscape is still getting sharper, by a factor of {1 / rises:.2g} from the third to "
            "the last quarter of the readings: train for longer, or with a larger learning rate"
        )
    if not math.isfinite(level):
        raise NoAdviceError("there is no positive curvature that would limit a learning rate")
    smooth = _running_median(at_edge)
    error = float(np.median(used.errors[late]) + 2 * np.median(used.stderrs[late]))
    rate, low, high = level, float(smooth.min()) * (1 - error), float(smooth.max()) * (1 + error)
    by_steps, at_most, scatter = math.inf, math.inf, math.nan
    if with_steps and of_step > 0:
        scatter = _scatter(taken.ratios / taken.rates)
        at_most = 1 / float(np.median(ratio_of_step(taken.ratios, used.slowness) / taken.rates))
        in_proportion, spread = _in_proportion(taken)
        by_steps = in_proportion if scatter > _NOISY else at_most
        rate = min(rate, by_steps)
        low = min(low, by_steps * (1 - spread))
        high = min(high, at_most * (1 + spread))
    low *= rises if rises < RISES else 1.0

    current = float(used.rates.max())
    return Evidence(
        used=used,
        current=current,
        rate=rate,
        low=min(max(low, 0.0), rate),
        high=max(high, rate),
        warmup=_warmup(used, steps, settled, rate),
        held=chi >= _AT_EDGE and trains,
        doubted=scatter > _NOISY and float(np.quantile(taken.ratios, 0.9)) < _FAR_FROM_EDGE,
        with_steps=with_steps,
        with_stderr=f"curvature/sharpness_stderr{suffix}" in curves,
        numbers={
            "learning_rate": current,
            "readings": float(len(used)),
            "settled_from": float(used.steps[settled]),
            "stability_ratio": chi,
            "at_edge_first": float(_running_median(used.at_edge)[0]),
            "at_edge_low": float(smooth.min()),
            "at_edge_high": float(smooth.max()),
            "rises": rises,
            "error": error,
            "momentum": used.momentum,
            "step_stability_ratio": of_step,
            "by_landscape": level,
            "by_steps": by_steps,
            "by_steps_at_most": at_most,
            "step_scatter": scatter,
            "loss_first": first,
            "loss_last": last,
        },
    )


def _between(steps: Steps, first: int, last: int) -> Steps:
    there = (steps.steps >= first) & (steps.steps <= last)
    return Steps(steps.steps[there], steps.rates[there], steps.ratios[there])


def _in_proportion(taken: Steps) -> tuple[float, float]:
    """The learning rate at which steps of the same shape no longer lower the loss of their batch.

    Returns:
        The rate, and twice its relative standard error.
    """
    each = taken.ratios / taken.rates
    middle = float(np.median(each))
    sigma = _OF_DEVIATION * float(np.median(np.abs(each - middle)))
    return 1 / middle, 2 * _OF_MEDIAN * sigma / middle / math.sqrt(len(each))


def _scatter(values: np.ndarray) -> float:
    """Standard deviation about the trend, from second differences, over the median size."""
    bends = np.abs(values[:-2] - 2 * values[1:-1] + values[2:])
    size = float(np.median(np.abs(values)))
    return _OF_DEVIATION * float(np.median(bends)) / math.sqrt(6) / size if size else 0.0


def _warmup(used: LandscapeSeries, steps: Steps, settled: int, rate: float) -> Warmup | None:
    """The warmup: from the lowest rate that earlier readings support, until all support `rate`.

    A reading over the edge supports the learning rate it was made with, if the steps after it did not
    overshoot.
    """
    too_sharp = rate / _SHARPER_AT_FIRST
    support = _from_the_first(used.at_edge)[:settled]
    sharp = np.flatnonzero(support < too_sharp)
    if not len(sharp):
        return None
    before = _between(steps, 0, int(used.steps[sharp[-1] + 1]) - 1)
    calm = [_went_well(before, int(step)) for step in used.steps[:settled]]
    support = np.where(calm, np.maximum(support, used.rates[:settled]), support)
    sharp = np.flatnonzero(support < too_sharp)
    if not len(sharp):
        return None
    early, until = slice(sharp[-1] + 1), int(used.steps[sharp[-1] + 1])
    start = _start(used.steps[early], support[early], rate, until)
    return Warmup(float(support[early].min()), start, until)


def _went_well(steps: Steps, step: int) -> bool:
    """Whether steps were read, and those soon after `step` did not overshoot."""
    after = soon_after(steps, step)
    return bool(len(after) and np.median(after) <= 1.0)


def _start(times: np.ndarray, support: np.ndarray, rate: float, until: int) -> int:
    """The first step at which a rise from the least of `support` to `rate` can begin.

    It is over none of `support`, at `times`: where that is f of the way from the least to `rate`, the
    rise is there after t - start = f (until - start). Where support is the least, f = 0 and the rise
    begins no sooner than t: of anything higher neither the landscape nor the steps say that it goes.
    """
    least = support.min()
    way = (support - least) / (rate - least)
    binds = way < 1.0
    begins = (times[binds] - way[binds] * until) / (1.0 - way[binds])
    return max(0, math.ceil(round(float(begins.max()), 6)))  # on a line all are 0, to rounding


def _from_the_first(values: np.ndarray) -> np.ndarray:
    """The running median, and Tukey's rule for the first: the start of training is the sharpest often.

    It is the median of the value, the next median, and what a line through the next two, in
    logarithms, has two places before. A trend is followed to its end so, and a stray still is none.
    """
    smooth = _running_median(values)
    with np.errstate(invalid="ignore"):
        earlier = float(smooth[1] * (smooth[1] / smooth[2]) ** 2)
    smooth[0] = np.median([values[0], smooth[1], math.inf if math.isnan(earlier) else earlier])
    return smooth


def _running_median(values: np.ndarray) -> np.ndarray:
    """Of three neighbours, shape (n,): one stray reading is none; both ends are of their three."""
    inner = np.median(np.stack([values[:-2], values[1:-1], values[2:]]), axis=0)
    return np.concatenate([inner[:1], inner, inner[-1:]])
