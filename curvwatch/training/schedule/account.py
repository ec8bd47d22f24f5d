"""Readings that share a budget, and what they and all else took since it was last looked at."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from curvwatch.training.schedule.budget import Budget, Interval
from curvwatch.training.schedule.clock import Clock

# steps whose times are kept for the typical one
_LAPS = 64


class BudgetAccount:
    """A budget, and the interval since the last look at it.

    Args:
        share: of the time of a run that its readings may take.
        kinds: of readings that it pays, in the order in which they have precedence.
        clock: of the run.

    Attributes:
        budget: for these kinds.
        counts: how many readings of each kind there were since the last look.
    """

    def __init__(self, share: float, kinds: Sequence[str], clock: Clock) -> None:
        self.budget = Budget(share, kinds)
        self._kinds = frozenset(kinds)
        self._clock = clock
        self._laps: deque[float] = deque(maxlen=_LAPS)
        self.forget(None)

    def forget(self, step: int | None) -> None:
        """Begin another interval between looks, at optimizer step `step`."""
        self._since: tuple[int | None, float, float] = (
            step,
            self._clock.total_seconds,
            self._clock.reading_seconds,
        )
        self._timed: dict[str, float] = {}
        self.counts: Counter[str] = Counter()
        # readings that it does not pay
        self._other_seconds, self._other_readings = 0.0, 0
        self._laps.clear()

    def lap(self, seconds: float) -> None:
        """A step without a reading took so long."""
        self._laps.append(seconds)

    def update(self, step: int, agreed: Callable[[Sequence[float]], list[float]]) -> None:
        """Let the budget decide anew at `step`, where it wants to; `agreed` averages over processes."""
        if self.budget.updates_at(step):
            self.budget.update(step, self._passed(step, agreed))
            self.forget(step)

    def begin(self, kind: str | None) -> None:
        """A reading begins, None: that no budget pays."""
        if kind in self._kinds:
            self.counts[kind] += 1
        else:
            self._other_readings += 1

    def end(self, kind: str | None, seconds: float) -> None:
        """It took so long."""
        if kind in self._kinds:
            self._timed[kind] = self._timed.get(kind, 0.0) + seconds
        else:
            self._other_seconds += seconds

    def _passed(self, step: int, agreed: Callable[[Sequence[float]], list[float]]) -> Interval:
        since, total, reading = self._since
        seconds, spent, lap, laps = agreed(
            [
                self._clock.total_seconds - total,
                self._clock.reading_seconds - reading,
                median(self._laps) if self._laps else 0.0,
                float(bool(self._laps)),
            ]
        )
        # what other readings take besides their own times is theirs, too
        readings = self._other_readings + sum(self.counts.values())
        rest = spent - self._other_seconds - sum(self._timed.values())
        spent -= self._other_seconds
        if self._other_readings:
            spent -= max(0.0, rest) * self._other_readings / readings
        return Interval(
            steps=0 if since is None else step - since,
            seconds=seconds,
            reading=spent,
            step=lap if laps == 1.0 else None,
            timed=dict(self._timed),
            counts=dict(self.counts),
        )

    def interval(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "since": list(self._since),
            "timed": dict(self._timed),
            "counts": dict(self.counts),
            "fixed": [self._other_seconds, self._other_readings],
        }

    def load(self, budget: dict[str, Any], interval: dict[str, Any]) -> None:
        """Go on from `budget.state_dict()` and `interval()`."""
        self.budget.load_state_dict(budget)
        self._since = tuple(interval["since"])
        self._timed = dict(interval["timed"])
        self.counts = Counter(interval["counts"])
        self._other_seconds, self._other_readings = interval["fixed"]
