"""What steps and readings take, as far as a run has shown it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp
from statistics import median, median_low
from typing import Any

# a first reading, in steps and seconds, before one was measured
_GUESSED = {"step": (6.0, 0.01), "landscape": (60.0, 0.04), "expensive": (300.0, 0.1)}
# the same in readings of the step, once one of these was measured
_GUESSED_BY_STEP = {"landscape": 3.0, "expensive": 12.0}
# what one reading costs says little of the next; the first one starts from nothing
_FIRST_IS_DEARER = 1.6
# a pause (validation, a checkpoint) counts as no more time than pays so many readings of each kind
_PAUSE_READINGS = 5.0
# intervals and readings whose median counts
_RECENT = 5


@dataclass
class Interval:
    """What passed since the last update, the same on every process.

    Attributes:
        steps: made.
        training: seconds of the run, with pauses, without any reading.
        reading: seconds of everything that the monitor did, for what keeps to the budget.
        timed: seconds of the readings themselves, by kind.
        counts: how many there were, by kind.
    """

    steps: int
    training: float
    reading: float
    timed: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


class Costs:
    """The seconds of steps and of readings of each kind.

    Args:
        kinds: of readings, see `Budget`.

    Attributes:
        trained: seconds of training so far.
        spent: seconds of readings so far.
    """

    def __init__(self, kinds: Sequence[str]) -> None:
        self.trained = 0.0
        self.spent = 0.0
        self._kinds = tuple(kinds)
        self._per_step: deque[float] = deque(maxlen=_RECENT)
        self._seconds, self._steps = 0.0, 0.0  # of the fading mean of a step, with pauses
        self._is_first = True  # the first interval sees what happens once: compilation, workers
        self._idle: deque[float] = deque(maxlen=_RECENT)
        self._readings: dict[str, deque[float]] = {kind: deque(maxlen=_RECENT) for kind in kinds}

    @property
    def knows_steps(self) -> bool:
        """Whether a step was made."""
        return bool(self._per_step)

    @property
    def step_seconds(self) -> float:
        """A typical step without pauses; 0 before the first."""
        return median(self._per_step) if self._per_step else 0.0

    @property
    def mean_step(self) -> float:
        """A step with its part of the pauses."""
        return self._seconds / self._steps if self._steps else self.step_seconds

    def was_read(self, kind: str) -> bool:
        """Whether there was a reading of `kind`."""
        return bool(self._readings[kind])

    def of(self, kind: str) -> float:
        """Seconds of the next reading of `kind`."""
        seen = self._readings[kind]
        if seen:
            return seen[0] / _FIRST_IS_DEARER if len(seen) == 1 else median_low(seen)
        if kind != self._kinds[0] and self._readings[self._kinds[0]]:
            return self.of(self._kinds[0]) * float(of_kind(kind, _GUESSED_BY_STEP))
        steps, seconds = of_kind(kind, _GUESSED)
        return float(steps * self.step_seconds + seconds)

    def all(self) -> dict[str, float]:
        """The same of all kinds."""
        return {kind: self.of(kind) for kind in self._kinds}

    def learn(self, step: int, passed: Interval, *, ratio: float) -> None:
        """Take in what `passed` until `step`; readings may take `ratio` of the training time."""
        self.spent += passed.reading
        readings = sum(passed.counts.values())
        if not readings and passed.steps:
            self._idle.append(passed.reading / passed.steps)
        # what is kept for readings is not in their own times
        idle = passed.steps * (median(self._idle) if self._idle else 0.0)
        rest = max(0.0, passed.reading - idle - sum(passed.timed.values()))
        for kind, count in passed.counts.items():
            self._readings[kind].append(passed.timed.get(kind, 0.0) / count + rest / readings)
        if passed.steps:
            self._learn_steps(step, passed, ratio)

    def _learn_steps(self, step: int, passed: Interval, ratio: float) -> None:
        fading = exp(-passed.steps / max(50.0, step / 4))
        if self._is_first and self._per_step:
            self._per_step.clear()
            self._is_first, fading = False, 0.0
        self._per_step.append(passed.training / passed.steps)
        typical = passed.steps * self.step_seconds
        counted = min(passed.training, typical + _PAUSE_READINGS * sum(self.all().values()) / ratio)
        self.trained += counted
        self._seconds = fading * self._seconds + counted
        self._steps = fading * self._steps + passed.steps

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "trained": self.trained,
            "spent": self.spent,
            "per_step": list(self._per_step),
            "mean": [self._seconds, self._steps],
            "first": self._is_first,
            "idle": list(self._idle),
            "readings": {kind: list(seen) for kind, seen in self._readings.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`; what it holds of other kinds is dropped."""
        self.trained, self.spent = state["trained"], state["spent"]
        self._per_step.extend(state["per_step"])
        self._seconds, self._steps = state["mean"]
        self._is_first = state["first"]
        self._idle.extend(state["idle"])
        for kind, seen in self._readings.items():
            seen.extend(state["readings"].get(kind, ()))


def of_kind(kind: str, table: Mapping[str, Any]) -> Any:
    """The entry of `table` for `kind`: of its stage, or "expensive"."""
    stage, _, expensive = kind.partition(", ")
    return table["expensive" if expensive else stage]
