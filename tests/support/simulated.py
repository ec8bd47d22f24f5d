"""A run on a clock of its own: steps, readings and pauses take what they are told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from curvwatch.measures import Measure, Sharpness, StepGeometry
from curvwatch.training.schedule.schedule import Schedule

Seconds = Callable[[int], float]


def _nothing(step: int) -> float:
    return 0.0


@dataclass
class Process:
    """One process of a simulated run.

    Attributes:
        step: seconds of step t without readings.
        landscape: of its reading of the landscape.
        geometry: of its reading of the step.
        pause: of validation and the like before step t.
        idle: seconds that the monitor takes at each step.
        total_steps: as far as the run knows.
        budget: of the schedule.
        read: the steps that were read, by stage.
    """

    step: Seconds
    landscape: Seconds
    geometry: Seconds
    pause: Seconds = _nothing
    idle: float = 0.0
    total_steps: int | None = None
    budget: float = 0.05
    every_n_steps: int | None = None
    read: dict[str, list[int]] = field(default_factory=lambda: {"landscape": [], "step": []})
    marks: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.time = 0.0
        self.new_schedule()

    def new_schedule(self) -> None:
        """As a resumed run has it."""
        self.schedule = Schedule(
            [Sharpness(), StepGeometry()],
            every_n_steps=self.every_n_steps,
            budget=self.budget,
            now=lambda: self.time,
        )

    def mean_of(self, values: Sequence[float]) -> list[float]:
        """Alone: its own."""
        return list(values)

    def start(self) -> None:
        run: Any = self
        self.schedule.start(run, lambda: self.total_steps)

    def make_step(self, t: int) -> None:
        """What the monitor does in the course of one step."""
        schedule = self.schedule
        self.marks.append((schedule.clock.total_seconds, schedule.clock.reading_seconds))
        self.time += self.pause(t)
        with schedule.clock.reading():
            due: dict[str, list[Measure]] = {"landscape": [], "step": []}
            if t >= schedule.next_event:
                due = {"landscape": schedule.due("landscape", t), "step": schedule.due("step", t)}
            self.time += self.idle
        self.time += self.step(t)
        with schedule.clock.reading():
            for stage, seconds in (("landscape", self.landscape), ("step", self.geometry)):
                if due[stage]:
                    self.read[stage].append(t)
                    with schedule.timed(due[stage]):
                        self.time += 0.9 * seconds(t)
                    self.time += 0.1 * seconds(t)  # copies, loggers

    def share(self, first: int, last: int) -> float:
        """Of the time between two steps that readings took."""
        (begin, before), (end, after) = self.marks[first], self.marks[last]
        return (after - before) / (end - begin)


def simulated(steps: int, **options: Any) -> Process:
    """A run of one process."""
    process = Process(**options)
    process.start()
    for t in range(steps):
        process.make_step(t)
    return process
