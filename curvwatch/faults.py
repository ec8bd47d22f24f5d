"""What happens when a reading fails: it is told once, and training goes on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from curvwatch.errors import CurvwatchError, CurvwatchWarning

OnError = Literal["warn", "raise"]


class Faults:
    """Turns exceptions into warnings, one for each cause.

    Args:
        on_error: "warn", or "raise" to let them pass.
    """

    def __init__(self, on_error: OnError = "warn") -> None:
        self.on_error = on_error
        self._told: set[str] = set()

    @contextmanager
    def caught(self, doing: str) -> Iterator[None]:
        """Catch what goes wrong while `doing`."""
        try:
            yield
        except Exception as error:
            if self.on_error == "raise":
                raise
            kind = "" if isinstance(error, CurvwatchError) else f"{type(error).__name__}: "
            self.tell(f"{doing} failed: {kind}{error}", cause=f"{doing}: {type(error).__name__}")

    def tell(self, text: str, *, cause: str | None = None) -> None:
        """Warn of `text`, unless its `cause` (default: the text) was told before."""
        if (cause or text) in self._told:
            return
        self._told.add(cause or text)
        warnings.warn(f"curvwatch: {text}. Training goes on", CurvwatchWarning, stacklevel=2)
