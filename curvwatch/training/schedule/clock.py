"""How the time of a run divides into training and reading."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any


class Clock:
    """Wall time of a run and of the readings in it, over several calls of `fit`.

    The time of a run is what a person sees pass: steps, waiting for data, validation, checkpoints and
    readings, from the start of training to its end.

    Args:
        now: seconds since any moment; tests have their own.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self._ended = 0.0
        self._earlier = 0.0
        self._started: float | None = None
        self._reading_since = 0.0
        self._depth = 0
        self._section = _Section(self)

    def start(self) -> None:
        """Training begins."""
        self._started = self.now()

    def stop(self) -> None:
        """Training ends."""
        self._earlier = self.total_seconds
        self._started = None

    @property
    def total_seconds(self) -> float:
        """Of the run so far, readings included."""
        return self._earlier + (0.0 if self._started is None else self.now() - self._started)

    @property
    def reading_seconds(self) -> float:
        """Of all readings so far, the one under way included."""
        return self._ended + (self.now() - self._reading_since if self._depth else 0.0)

    @property
    def share(self) -> float:
        """Share of the time of the run so far that was spent on readings."""
        return self.reading_seconds / self.total_seconds if self.total_seconds else 0.0

    def reading(self) -> _Section:
        """Count what happens inside as reading, and what is in it only once."""
        return self._section

    def add(self, seconds: float) -> None:
        """Count `seconds` that passed in the run as reading: what was estimated and not timed."""
        self._ended += seconds

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"total": self.total_seconds, "reading": self.reading_seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._earlier = state["total"]
        self._ended = state["reading"]


class _Section:
    """Enters and leaves readings of a clock; faster than a generator, for it is passed each step."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __enter__(self) -> None:
        clock = self._clock
        if not clock._depth:
            clock._reading_since = clock.now()
        clock._depth += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        clock = self._clock
        clock._depth -= 1
        if not clock._depth:
            clock._ended += clock.now() - clock._reading_since
