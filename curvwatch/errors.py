"""Exceptions and warnings of curvwatch, and what happens when a reading fails."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal


class CurvwatchError(RuntimeError):
    """A reading could not be taken; the message says why and what would help."""


class CurvwatchWarning(UserWarning):
    """A reading failed or an alert fired; training goes on."""


OnError = Literal["warn", "raise"]


class ErrorPolicy:
    """Turns exceptions into warnings, one for each cause.

    Args:
        on_error: "warn", or "raise" to let them pass.
    """

    def __init__(self, on_error: OnError = "warn") -> None:
        self.on_error = on_error
        self._told: set[str] = set()

    def forget(self) -> None:
        """Another run: tell all over again."""
        self._told.clear()

    @contextmanager
    def guard(self, doing: str) -> Iterator[None]:
        """Catch what goes wrong while `doing`."""
        try:
            yield
        except Exception as error:
            if self.on_error == "raise":
                raise
            kind = type(error).__name__
            reason = str(error) if isinstance(error, CurvwatchError) else f"{kind}: {error}"
            # the same error in another place is one cause, and so is another number in its text
            self.warn_once(f"{doing} failed: {reason}", causes=(f"{kind}: {error}", f"{doing}: {kind}"))

    def warn_once(self, text: str, *, causes: Sequence[str] = ()) -> None:
        """Warn of `text`, unless it or one of its `causes` was told before."""
        known = not self._told.isdisjoint((text, *causes))
        self._told.update((text, *causes))
        if known:
            return
        warnings.warn(f"curvwatch: {text}. Training goes on", CurvwatchWarning, stacklevel=2)
