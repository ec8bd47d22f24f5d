"""What became of a run, from its training loss alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.alerts.record import Record

Fate = Literal["diverged", "spiked", "shaken", "stuck", "edge", "healthy"]
FATES: dict[Fate, str] = {
    "diverged": "the loss is not finite, or ends over half its start and three times its best, or over "
    "its start after it doubled",
    "spiked": "the loss was ten times its running median, and came back",
    "shaken": "the loss was three times its running median, and came back",
    "stuck": "the loss neither rises nor falls: it ends over 90 % of its start and never doubled",
    "edge": "none of these, and the median stability ratio of the second half is .8 or more",
    "healthy": "none of these",
}
# the running median is that of so many losses before
MEDIAN_OF, TIMES = 50, 10.0
# from so many healthy steps on a failure is a late one
LATE = 50
_END = 20
# before, the running median is of too few losses to tell a small rise
_SETTLED = 5


@dataclass(frozen=True)
class Label:
    """What became of a run.

    Attributes:
        fate: a key of `FATES`.
        fails: the first step whose loss is over ten times the running median, or not finite; of a run
            that diverged by less, the first with three times it; None: there is none.
        doubles: the first step whose loss is over twice the first one; None: there is none.
    """

    fate: Fate
    fails: int | None
    doubles: int | None

    @property
    def late(self) -> bool:
        """Whether it failed after healthy steps."""
        return self.fails is not None and self.fails >= LATE and not self.at_once

    @property
    def at_once(self) -> bool:
        """Whether the loss doubled in the first steps."""
        return self.doubles is not None and self.doubles < LATE


def running_median(loss: np.ndarray) -> np.ndarray:
    """Of the 50 losses before each, shape (steps,); the first is its own."""
    medians = np.empty(len(loss))
    for t in range(len(loss)):
        before = loss[max(0, t - MEDIAN_OF) : t]
        finite = before[np.isfinite(before)]
        medians[t] = np.median(finite) if len(finite) else loss[t]
    return medians


def label(record: Record) -> Label:
    """What became of `record`."""
    loss = record.loss
    usual = running_median(loss)
    bad = ~np.isfinite(loss)
    fails = _first(bad | (loss > TIMES * usual))
    doubles = _first(bad | (loss > 2 * loss[0]))
    end = float(np.median(loss[-_END:])) if not bad[-_END:].any() else np.inf
    best = min(float(np.median(loss[i : i + _END])) for i in range(0, max(1, len(loss) - _END), 5))
    lost = end > max(0.5 * loss[0], 3 * best) or (doubles is not None and end > loss[0])
    if not np.isfinite(end) or lost:
        if fails is None:
            fails = _first(loss > 3 * usual)
        return Label("diverged", doubles if fails is None else fails, doubles)
    if fails is not None:
        return Label("spiked", fails, doubles)
    if end > 0.9 * loss[0]:
        return Label("stuck", None, doubles)
    if (loss[_SETTLED:] > 3 * usual[_SETTLED:]).any() or doubles is not None:
        return Label("shaken", None, doubles)
    ratios = record.metric("curvature/stability_ratio")[record.steps // 2 :]
    ratios = ratios[np.isfinite(ratios)]
    at_edge = len(ratios) > 0 and float(np.median(ratios)) >= 0.8
    return Label("edge" if at_edge else "healthy", None, doubles)


def _first(where: np.ndarray) -> int | None:
    found = np.flatnonzero(where)
    return int(found[0]) if len(found) else None
