"""When each measure is due, and what all of them cost so far."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from curvwatch.measures import Measure, Stage
from curvwatch.objective.processes import Processes
from curvwatch.training.schedule.account import BudgetAccount
from curvwatch.training.schedule.budget import Budget
from curvwatch.training.schedule.clock import Clock

# of the budget, where there are expensive measures beside others
_SHARE_OF_EXPENSIVE = 1 / 3
# the cheaper stage has precedence
_STAGES: tuple[Stage, ...] = ("step", "landscape")


class Schedule:
    """A cadence for each measure, and the clock that they go by.

    Measures of a stage that have no cadence of their own are read together, as often as the budget
    allows; those that have one cost what they cost. Expensive measures among others have a third of the
    budget to themselves, so that a reading of them is paid by no other.

    Args:
        measures: to schedule.
        every_n_steps: read every n optimizer steps; None: as often as the budget allows; 0: never, for
            readings are asked for.
        budget: the share of the time of a run that readings may take.
        now: see `Clock`.

    Attributes:
        clock: of the run.
        next_event: the first step at which anything may be due; at those before nothing is.
    """

    def __init__(
        self,
        measures: Sequence[Measure],
        *,
        every_n_steps: int | None,
        budget: float,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.clock = Clock(now)
        self.next_event = 0
        self._measures = [
            (m, every_n_steps if m.every_n_steps is None else m.every_n_steps) for m in measures
        ]
        budgeted = {(m.stage, m.expensive) for m, fixed in self._measures if fixed is None}
        shares = {False: 1.0, True: 1.0}
        if len({expensive for _, expensive in budgeted}) == 2:
            shares = {False: 1.0 - _SHARE_OF_EXPENSIVE, True: _SHARE_OF_EXPENSIVE}
        # by whether its measures are expensive
        self._accounts = {
            expensive: BudgetAccount(
                budget * shares[expensive], kinds, self.clock, part=shares[expensive]
            )
            for expensive in (False, True)
            if (kinds := [_kind(s, expensive) for s in _STAGES if (s, expensive) in budgeted])
        }
        self._processes = Processes()
        self._run_length: Callable[[], int | None] | None = None
        self._step: int | None = None
        self._due: frozenset[str] = frozenset()
        self._granted: set[str] = set()  # beside their cadence
        self._prioritized: frozenset[str] = frozenset()

    @property
    def budget(self) -> Budget | None:
        """Of the cheap measures, else of the expensive ones; None: all cadences are fixed."""
        return next((account.budget for account in self._accounts.values()), None)

    @property
    def shortfall(self) -> str | None:
        """What the budget cannot pay in this run, in words."""
        return next(filter(None, (a.budget.shortfall for a in self._accounts.values())), None)

    def start(self, processes: Processes, total_steps: Callable[[], int | None] | None = None) -> None:
        """Training begins: all `processes` will decide alike.

        Args:
            processes: those that train together.
            total_steps: how many optimizer steps the whole run will make; None where nobody knows.
        """
        self._processes, self._run_length = processes, total_steps
        self.next_event = 0
        self.clock.start()

    def stop(self) -> None:
        """Training ends."""
        self._run_length = None
        self.clock.stop()

    def prioritize(self, names: Collection[str]) -> None:
        """Read the measures of these names at every step, as far as the budget has saved for it.

        Measures whose cadence is fixed keep it.
        """
        before, self._prioritized = self._prioritized, frozenset(names)
        if self._prioritized - before:
            self.next_event = 0

    def due(self, stage: Stage, step: int) -> list[Measure]:
        """The measures of `stage` that are due at optimizer step `step`: asked at each step.

        Steps before `next_event` need not be asked for.
        """
        if step != self._step:
            self._next_step(step)
        return [
            measure
            for measure, fixed in self._measures
            if measure.stage == stage
            and (self._is_due(measure) if fixed is None else fixed and step % fixed == 0)
        ]

    def groups(self, measures: Sequence[Measure]) -> list[list[Measure]]:
        """`measures`, of one stage, as they are to be read and timed: the expensive ones last.

        Together where no two budgets pay them: they share a gradient then.
        """
        if len({m.expensive for m, fixed in self._measures if fixed is None and m in measures}) < 2:
            return [list(measures)] if measures else []
        return [[m for m in measures if m.expensive == expensive] for expensive in (False, True)]

    def _is_due(self, measure: Measure) -> bool:
        kind = _kind(measure.stage, measure.expensive)
        return kind in self._due or (measure.name in self._prioritized and kind in self._granted)

    def _next_step(self, step: int) -> None:
        self._step = step
        due: frozenset[str] = frozenset()
        for account in self._accounts.values():
            if account.budget.updates_at(step):
                total_steps = None if self._run_length is None else self._run_length()
                account.update(step, self._processes.mean_of, total_steps)
            due |= account.due(step)
        self._due = due
        wanted = {
            (m.expensive, _kind(m.stage, m.expensive))
            for m, fixed in self._measures
            if fixed is None and m.name in self._prioritized
        }
        self._granted = {k for e, k in sorted(wanted) if k not in due and self._accounts[e].grant(k)}
        fixed = [step - step % n + n for _, n in self._measures if n]
        budgets = [account.budget.next_event(step) for account in self._accounts.values()]
        # what is wanted and cannot be paid waits for the next update
        goes_on = any(k in due or k in self._granted for _, k in wanted)
        self.next_event = step + 1 if goes_on else min(fixed + budgets, default=sys.maxsize)

    def expected_seconds(self, measures: Sequence[Measure]) -> float | None:
        """What a reading of `measures`, one of the `groups`, will take; None where no budget knows."""
        for measure, fixed in self._measures:
            if fixed is None and measure in measures:
                kind = _kind(measure.stage, measure.expensive)
                return self._accounts[measure.expensive].budget.cost(kind)
        return None

    @contextmanager
    def timed(self, measures: Sequence[Measure]) -> Iterator[list[float]]:
        """Time a reading of `measures`, of one stage and one of its `groups`.

        The list then has its seconds and the share that all readings took so far, averaged over
        processes.
        """
        budgeted = [m for m, fixed in self._measures if fixed is None and m in measures]
        kind = _kind(budgeted[0].stage, budgeted[0].expensive) if budgeted else None
        for account in self._accounts.values():
            account.begin(kind)
        begin = self.clock.now()
        taken: list[float] = []
        yield taken
        taken += self._processes.mean_of([self.clock.now() - begin, self.clock.share])
        for account in self._accounts.values():
            account.end(kind, taken[0])

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: a resumed run goes on alike."""
        saved = {
            expensive: {"budget": account.budget.state_dict(), "interval": account.interval()}
            for expensive, account in self._accounts.items()
        }
        nothing = {"budget": None, "interval": None}
        return {
            "clock": self.clock.state_dict(),
            **saved.get(False, nothing),
            "expensive": saved.get(True),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.clock.load_state_dict(state["clock"])
        self._step, self.next_event = None, 0
        for expensive, account in self._accounts.items():
            account.begin_interval(None)
            # an earlier version had another account
            saved = state.get("expensive") if expensive else state
            if (
                saved is not None
                and saved["budget"] is not None
                and "costs" in saved["budget"]
                and "limits" in saved["budget"]
            ):
                account.load(saved["budget"], saved["interval"])


def _kind(stage: str, expensive: bool) -> str:
    """What is read together, and has a cadence of its own."""
    return f"{stage}, expensive" if expensive else stage
