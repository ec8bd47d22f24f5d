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

    Attributes:
        run_is_over: whether the run has ended: a warning then does not say that training goes on.
    """

    def __init__(self, on_error: OnError = "warn") -> None:
        self.on_error = on_error
        self.run_is_over = False
        self._warned: set[str] = set()

    def reset(self) -> None:
        """Another run begins: give each warning anew."""
        self._warned.clear()
        self.run_is_over = False

    @contextmanager
    def guard(self, doing: str) -> Iterator[None]:
        """Turn an exception in the block into a warning that `doing` failed."""
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
        """Warn with `text`, unless there was a warning with it or one of its `causes` before."""
        was_given = not self._warned.isdisjoint((text, *causes))
        self._warned.update((text, *causes))
        if was_given:
            return
        consequence = "" if self.run_is_over else ". Training goes on"
        warnings.warn(f"curvwatch: {text}{consequence}", CurvwatchWarning, stacklevel=2)
