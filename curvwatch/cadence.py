"""When a measure is due: on a 1-2-5 grid, so that runs share steps and can be compared."""

from __future__ import annotations

from typing import Any

# the first steps change the landscape most, and short runs should show a curve
_EARLY_STEPS = frozenset({0, 10, 20, 50, 100})
# an average over about this many steps follows step times that change
_MEMORY_STEPS = 20


def on_grid(at_least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is `at_least` or more."""
    decade = 1
    while True:
        for factor in (1, 2, 5):
            if factor * decade >= at_least:
                return factor * decade
        decade *= 10


class Cadence:
    """Every n-th optimizer step, n fixed or chosen so that readings keep to a share of the time.

    Args:
        every_n_steps: fixes n.
        budget: else the share of wall time that readings may take, between 0 and 1.
    """

    def __init__(self, *, every_n_steps: int | None = None, budget: float = 0.05) -> None:
        self._fixed = every_n_steps
        self._budget = budget
        self._step_seconds: float | None = None
        self._reading_seconds: float | None = None
        self._spent = 0.0  # seconds, on all readings
        self._elapsed = 0.0  # seconds of steps and readings

    @property
    def every_n_steps(self) -> int:
        """n, at present."""
        if self._fixed is not None:
            return self._fixed
        if self._reading_seconds is None or not self._step_seconds:
            return 100
        # reading / (n x step + reading) <= budget
        return on_grid(self._reading_seconds * (1 / self._budget - 1) / self._step_seconds)

    def due(self, step: int) -> bool:
        """Whether a reading is due at optimizer step `step`, counted from 0."""
        if self._fixed is None and step in _EARLY_STEPS:
            return True
        # what the early readings took beyond the budget is saved before the next
        paid = self._fixed is not None or self._spent <= self._budget * self._elapsed
        return paid and step % self.every_n_steps == 0

    def step_took(self, seconds: float) -> None:
        """Tell the duration of one training step without readings."""
        self._elapsed += seconds
        if self._step_seconds is None:
            self._step_seconds = seconds
        else:
            self._step_seconds += (seconds - self._step_seconds) / _MEMORY_STEPS

    def reading_took(self, seconds: float) -> None:
        """Tell the duration of one reading."""
        self._spent += seconds
        self._elapsed += seconds
        if self._reading_seconds is None:
            self._reading_seconds = seconds
        else:
            self._reading_seconds += (seconds - self._reading_seconds) / 3

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on alike."""
        return {
            "step_seconds": self._step_seconds,
            "reading_seconds": self._reading_seconds,
            "spent": self._spent,
            "elapsed": self._elapsed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._step_seconds = state["step_seconds"]
        self._reading_seconds = state["reading_seconds"]
        self._spent = state["spent"]
        self._elapsed = state["elapsed"]
