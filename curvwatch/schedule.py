"""When each measure is due, and what all of them cost so far."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from curvwatch.cadence import Cadence
from curvwatch.clock import Clock
from curvwatch.measures import Measure, Stage
from curvwatch.run import Run


class Schedule:
    """A cadence for each measure, and the clock that they go by.

    Args:
        measures: to schedule.
        every_n_steps: read every n optimizer steps; None: as often as the budget allows.
        budget: the share of the training time that readings may take.
    """

    def __init__(
        self, measures: Sequence[Measure], *, every_n_steps: int | None, budget: float
    ) -> None:
        self._measures = measures
        self.clock = Clock()
        self._laps: list[float] = []  # seconds of each step since the last reading, here
        self._agreed_lap: float | None = None
        share = budget / len({m.stage for m in measures} or {1})
        self._cadences = {
            m.name: Cadence(every_n_steps=m.every_n_steps or every_n_steps, budget=share)
            for m in measures
        }

    def due(self, stage: Stage, step: int) -> list[Measure]:
        """The measures of `stage` that are due at optimizer step `step`."""
        return [m for m in self._measures if m.stage == stage and self._cadences[m.name].due(step)]

    def step_made(self, run: Run) -> None:
        """Training made a step since this was last called.

        Several processes go by the average that they agreed on at the last reading: each by its own
        clock, one would read where the others do not, and wait for ever.
        """
        seconds = self.clock.lap()
        if seconds is None:
            return
        self._laps.append(seconds)
        agreed = seconds if run.alone else self._agreed_lap
        if agreed is not None:
            for cadence in self._cadences.values():
                cadence.step_took(agreed)

    @contextmanager
    def timed(self, run: Run, measures: Sequence[Measure]) -> Iterator[list[float]]:
        """Time a reading of `measures`; its seconds, averaged over processes, are in the list then."""
        begin = time.perf_counter()
        taken: list[float] = []
        yield taken
        taken.append(run.agreed(time.perf_counter() - begin))
        if not run.alone:
            lap = run.agreed(sum(self._laps) / len(self._laps) if self._laps else math.nan)
            # nan: a process has made no step yet
            self._agreed_lap = self._agreed_lap if math.isnan(lap) else lap
        self._laps = []
        for measure in measures:
            self._cadences[measure.name].reading_took(taken[0])

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: a resumed run goes on alike."""
        return {
            "clock": self.clock.state_dict(),
            "cadences": {name: c.state_dict() for name, c in self._cadences.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.clock.load_state_dict(state["clock"])
        for name, cadence in self._cadences.items():
            if name in state["cadences"]:
                cadence.load_state_dict(state["cadences"][name])
