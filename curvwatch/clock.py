"""How the time of a run divides into training and reading."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Clock:
    """Wall time of a run and of the readings in it, over several calls of `fit`."""

    def __init__(self) -> None:
        self._ended = 0.0
        self._earlier = 0.0
        self._started: float | None = None
        self._mark: float | None = None
        self._reading_since: float | None = None

    def start(self) -> None:
        """Training begins."""
        self._started = time.perf_counter()
        self._mark = None

    def stop(self) -> None:
        """Training ends."""
        self._earlier = self.total_seconds
        self._started = None

    @property
    def total_seconds(self) -> float:
        """Of training so far, readings included."""
        now = 0.0 if self._started is None else time.perf_counter() - self._started
        return self._earlier + now

    @property
    def reading_seconds(self) -> float:
        """Of all readings so far, the one under way included."""
        if self._reading_since is None:
            return self._ended
        return self._ended + time.perf_counter() - self._reading_since

    @property
    def share(self) -> float:
        """Share of the training time so far that was spent on readings."""
        return self.reading_seconds / self.total_seconds if self.total_seconds else 0.0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count what happens inside as reading."""
        self._reading_since = time.perf_counter()
        try:
            yield
        finally:
            self._ended += time.perf_counter() - self._reading_since
            self._reading_since = None

    def lap(self) -> float | None:
        """Seconds since the last lap without readings; None for the first."""
        elapsed = self.total_seconds - self.reading_seconds
        last, self._mark = self._mark, elapsed
        return None if last is None else elapsed - last

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"total": self.total_seconds, "reading": self.reading_seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._earlier = state["total"]
        self._ended = state["reading"]
