"""When each measure is due, and what all of them cost so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from curvwatch.measures import Measure, Stage
from curvwatch.objective.processes import Processes
from curvwatch.training.schedule.account import BudgetAccount
from curvwatch.training.schedule.budget import Budget
from curvwatch.training.schedule.clock import Clock

# of the budget, where there are dear measures beside others
_SHARE_OF_DEAR = 1 / 3


class Schedule:
    """A cadence for each measure, and the clock that they go by.

    Measures of a stage that have no cadence of their own are read together, as often as the budget
    allows; those that have one cost what they cost. Dear measures among others have a third of the
    budget to themselves, so that a reading of them is paid by no other.

    Args:
        measures: to schedule.
        every_n_steps: read every n optimizer steps; None: as often as the budget allows.
        budget: the share of the time of a run that readings may take.
        now: see `Clock`.
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
        self._measures = [(m, m.every_n_steps or every_n_steps) for m in measures]
        stages = {
            dear: sorted(
                {m.stage for m, fixed in self._measures if fixed is None and m.expensive == dear}
            )
            for dear in (False, True)
        }
        shares = {False: 1.0, True: 1.0}
        if all(stages.values()):
            shares = {False: 1.0 - _SHARE_OF_DEAR, True: _SHARE_OF_DEAR}
        # whether its measures are dear
        self._accounts = {
            dear: BudgetAccount(budget * shares[dear], [_group_key(s, dear) for s in kinds], self.clock)
            for dear, kinds in stages.items()
            if kinds
        }
        self._processes = Processes()
        self._step: int | None = None
        self._prioritized: frozenset[str] = frozenset()

    @property
    def budget(self) -> Budget | None:
        """Of the measures that are not dear, else of those that are; None: all cadences are fixed."""
        return next((account.budget for account in self._accounts.values()), None)

    def start(self, processes: Processes) -> None:
        """Training begins: all `processes` will decide alike."""
        self._processes = processes
        self.clock.start()

    def prioritize(self, names: Collection[str]) -> None:
        """Read the measures of these names at every step, as far as the budget has saved for it.

        Measures whose cadence is fixed keep it.
        """
        self._prioritized = frozenset(names)

    def due(self, stage: Stage, step: int) -> list[Measure]:
        """The measures of `stage` that are due at optimizer step `step`: asked at each step."""
        if self._accounts and step != self._step:
            self._next_step(step)
        return [
            measure
            for measure, fixed in self._measures
            if measure.stage == stage and (step % fixed == 0 if fixed else self._is_due(measure, step))
        ]

    def groups(self, measures: Sequence[Measure]) -> list[list[Measure]]:
        """`measures`, of one stage, as they are to be read and timed: the dear ones after the others.

        Together where no two budgets pay them: they share a gradient then.
        """
        if len({m.expensive for m, fixed in self._measures if fixed is None and m in measures}) < 2:
            return [list(measures)] if measures else []
        return [[m for m in measures if m.expensive == dear] for dear in (False, True)]

    def _is_due(self, measure: Measure, step: int) -> bool:
        account, kind = self._accounts[measure.expensive], _group_key(measure.stage, measure.expensive)
        if account.budget.due(kind, step):
            return True
        return measure.name in self._prioritized and account.budget.can_afford(kind, account.counts)

    def _next_step(self, step: int) -> None:
        self._step = step
        lap = self.clock.lap()
        for account in self._accounts.values():
            if lap is not None:
                account.lap(lap)
            account.update(step, self._processes.mean_of)

    @contextmanager
    def timed(self, measures: Sequence[Measure]) -> Iterator[list[float]]:
        """Time a reading of `measures`, of one stage and one of its `groups`.

        The list then has its seconds and the share that all readings took so far, averaged over
        processes.
        """
        kept = [m for m, fixed in self._measures if fixed is None and m in measures]
        kind = _group_key(kept[0].stage, kept[0].expensive) if kept else None
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
            dear: {"budget": account.budget.state_dict(), "interval": account.interval()}
            for dear, account in self._accounts.items()
        }
        nothing = {"budget": None, "interval": None}
        return {"clock": self.clock.state_dict(), **saved.get(False, nothing), "dear": saved.get(True)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.clock.load_state_dict(state["clock"])
        self._step = None
        for dear, account in self._accounts.items():
            account.forget(None)
            saved = state.get("dear") if dear else state
            if saved is not None and saved["budget"] is not None:
                account.load(saved["budget"], saved["interval"])


def _group_key(stage: str, dear: bool) -> str:
    """What is read together, and has a cadence of its own."""
    return f"{stage}, dear" if dear else stage
