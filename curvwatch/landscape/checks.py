"""Checks of arguments."""

from __future__ import annotations

import math


def check_count(name: str, value: object, *, least: int) -> None:
    """Raise a ValueError unless `value` is a whole number of `least` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r}: a whole number of {least} or more is needed")


def check_positive(name: str, value: object) -> None:
    """Raise a ValueError unless `value` is a positive number, or None."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r}: a positive number is needed")
