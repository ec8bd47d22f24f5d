"""What curvwatch raises and warns with."""

from __future__ import annotations


class CurvwatchError(RuntimeError):
    """A reading could not be taken; the message says why and what would help."""


class CurvwatchWarning(UserWarning):
    """A reading failed or an alert fired; training goes on."""
