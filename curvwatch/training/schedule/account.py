"""Time spent by a group of measures since the last budget update."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from curvwatch.training.schedule.budget import Budget
from curvwatch.training.schedule.clock import Clock
from curvwatch.training.schedule.costs import Interval


class BudgetAccount:
    """A budget, and the interval since its last update.

    Args:
        share: of the time of a run that its readings may take.
        kinds: of readings that it pays, in the order in which they have precedence.
        clock: of the run.
        part: of the seconds that are free of the share, see `Budget`.

    Attributes:
        budget: for these kinds.
        kinds: that it pays.
    """

    def __init__(self, share: float, kinds: Sequence[str], clock: Clock, *, part: float = 1.0) -> None:
        self.budget = Budget(share, kinds, part=part)
        self.kinds = tuple(kinds)
        self._clock = clock
        self.begin_interval(None)

    def begin_interval(self, step: int | None) -> None:
        """Begin another interval between updates, at optimizer step `step`."""
        self._since: tuple[int | None, float, float] = (
            step,
            self._clock.total_seconds,
            self._clock.reading_seconds,
        )
        self._timed: dict[str, float] = {}
        self._counts: Counter[str] = Counter()
        # readings that it does not pay
        self._other_seconds, self._other_readings = 0.0, 0

    def update(
        self, step: int, average: Callable[[Sequence[float]], list[float]], total_steps: int | None
    ) -> None:
        """Update the budget at `step`; `average` averages over processes."""
        passed, total_steps = self._passed(step, average, total_steps)
        self.budget.update(step, passed, total_steps=total_steps)
        self.begin_interval(step)

    def due(self, step: int) -> frozenset[str]:
        """The kinds that are due at `step`, after the update if there is one."""
        pending, due = self._pending, set()
        for kind in self.kinds:
            if self.budget.due(kind, step, pending):
                due.add(kind)
                pending += self.budget.cost(kind)
        return frozenset(due)

    def grant(self, kind: str) -> bool:
        """Whether a reading of `kind` beside its cadence can be paid: it is made then."""
        return self.budget.grant(kind, self._pending)

    def begin(self, kind: str | None) -> None:
        """A reading begins, None: that no budget pays."""
        if kind in self.kinds:
            self._counts[kind] += 1
        else:
            self._other_readings += 1

    def end(self, kind: str | None, seconds: float) -> None:
        """It took so long."""
        if kind in self.kinds:
            self._timed[kind] = self._timed.get(kind, 0.0) + seconds
        else:
            self._other_seconds += seconds

    @property
    def _pending(self) -> float:
        """Seconds of its readings since the last update, the same on every process."""
        return sum(self._timed.values())

    def _passed(
        self, step: int, average: Callable[[Sequence[float]], list[float]], total_steps: int | None
    ) -> tuple[Interval, int | None]:
        since, total, reading = self._since
        passed = self._clock.total_seconds - total
        spent = self._clock.reading_seconds - reading
        known = total_steps is not None
        passed, spent, steps, all_know = average([passed, spent, float(total_steps or 0), float(known)])
        training = passed - spent
        # what other readings take besides their own times is theirs, too
        readings = self._other_readings + sum(self._counts.values())
        rest = spent - self._other_seconds - sum(self._timed.values())
        spent -= self._other_seconds
        if self._other_readings:
            spent -= max(0.0, rest) * self._other_readings / readings
        interval = Interval(
            steps=0 if since is None else step - since,
            training=max(0.0, training),
            reading=max(0.0, spent),
            timed=dict(self._timed),
            counts=dict(self._counts),
        )
        return interval, round(steps) if all_know == 1.0 else None

    def interval(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "since": list(self._since),
            "timed": dict(self._timed),
            "counts": dict(self._counts),
            "fixed": [self._other_seconds, self._other_readings],
        }

    def load(self, budget: dict[str, Any], interval: dict[str, Any]) -> None:
        """Go on from `budget.state_dict()` and `interval()`."""
        self.budget.load_state_dict(budget)
        self._since = tuple(interval["since"])
        self._timed = dict(interval["timed"])
        self._counts = Counter(interval["counts"])
        self._other_seconds, self._other_readings = interval["fixed"]
