"""When each measure is due, and what all of them cost so far."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

from curvwatch.budget import Budget, Interval
from curvwatch.clock import Clock
from curvwatch.measures import Measure, Stage
from curvwatch.run import Run

# steps whose times are kept for the typical one
_LAPS = 64


class Schedule:
    """A cadence for each measure, and the clock that they go by.

    Measures of a stage that have no cadence of their own are read together, as often as the budget
    allows; the others cost what they cost.

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
        stages = sorted({m.stage for m, fixed in self._measures if fixed is None})
        self.budget = Budget(budget, stages) if stages else None
        self._agreed: Callable[[Sequence[float]], list[float]] = list
        self._step: int | None = None
        self._laps: deque[float] = deque(maxlen=_LAPS)
        self._hurried: frozenset[str] = frozenset()
        self._forget()

    def _forget(self) -> None:
        """Begin another interval between looks."""
        self._since: tuple[int | None, float, float] = (
            self._step,
            self.clock.total_seconds,
            self.clock.reading_seconds,
        )
        self._timed: dict[str, float] = {}
        self._counts: Counter[str] = Counter()
        self._fixed_seconds, self._fixed_readings = 0.0, 0
        self._laps.clear()

    def start(self, run: Run) -> None:
        """Training begins: all processes of `run` will decide alike."""
        self._agreed = run.agreed_all
        self.clock.start()

    def hurry(self, names: Collection[str]) -> None:
        """Read the measures of these names at every step, as far as the budget has saved for it.

        Measures whose cadence is fixed keep it.
        """
        self._hurried = frozenset(names)

    def due(self, stage: Stage, step: int) -> list[Measure]:
        """The measures of `stage` that are due at optimizer step `step`: asked at each step."""
        budget = self.budget
        if budget is not None and step != self._step:
            self._next_step(budget, step)
        return [
            measure
            for measure, fixed in self._measures
            if measure.stage == stage and (step % fixed == 0 if fixed else self._is_due(measure, step))
        ]

    def _is_due(self, measure: Measure, step: int) -> bool:
        budget = self.budget
        if budget is None:
            return False
        if budget.due(measure.stage, step):
            return True
        return measure.name in self._hurried and budget.spares(measure.stage, self._counts)

    def _next_step(self, budget: Budget, step: int) -> None:
        self._step = step
        lap = self.clock.lap()
        if lap is not None:
            self._laps.append(lap)
        if budget.looks_at(step):
            budget.look(step, self._passed(step))
            self._forget()

    def _passed(self, step: int) -> Interval:
        since, total, reading = self._since
        seconds, spent, lap, laps = self._agreed(
            [
                self.clock.total_seconds - total,
                self.clock.reading_seconds - reading,
                median(self._laps) if self._laps else 0.0,
                float(bool(self._laps)),
            ]
        )
        # what readings of a fixed cadence take besides their own times is theirs, too
        readings = self._fixed_readings + sum(self._counts.values())
        rest = spent - self._fixed_seconds - sum(self._timed.values())
        spent -= self._fixed_seconds
        if self._fixed_readings:
            spent -= max(0.0, rest) * self._fixed_readings / readings
        return Interval(
            steps=0 if since is None else step - since,
            seconds=seconds,
            reading=spent,
            step=lap if laps == 1.0 else None,
            timed=dict(self._timed),
            counts=dict(self._counts),
        )

    @contextmanager
    def timed(self, run: Run, measures: Sequence[Measure]) -> Iterator[list[float]]:
        """Time a reading of `measures`, of one stage.

        The list then has its seconds and the share that all readings took so far, averaged over
        processes.
        """
        stage = measures[0].stage
        kept = any(measure in measures and fixed is None for measure, fixed in self._measures)
        if kept:
            self._counts[stage] += 1
        else:
            self._fixed_readings += 1
        begin = self.clock.now()
        taken: list[float] = []
        yield taken
        taken += run.agreed_all([self.clock.now() - begin, self.clock.share])
        if kept:
            self._timed[stage] = self._timed.get(stage, 0.0) + taken[0]
        else:
            self._fixed_seconds += taken[0]

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: a resumed run goes on alike."""
        return {
            "clock": self.clock.state_dict(),
            "budget": None if self.budget is None else self.budget.state_dict(),
            "interval": {
                "since": list(self._since),
                "timed": dict(self._timed),
                "counts": dict(self._counts),
                "fixed": [self._fixed_seconds, self._fixed_readings],
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.clock.load_state_dict(state["clock"])
        self._step = None
        self._forget()
        if self.budget is None or state["budget"] is None:
            return
        self.budget.load_state_dict(state["budget"])
        interval = state["interval"]
        self._since = tuple(interval["since"])
        self._timed = dict(interval["timed"])
        self._counts = Counter(interval["counts"])
        self._fixed_seconds, self._fixed_readings = interval["fixed"]
