"""Checks of arguments, and the messages of those that are refused."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

Mode = Literal["train", "eval"]


def check_int(name: str, value: object, *, at_least: int, what: str) -> None:
    """Raise a ValueError unless `value` is an integer of `at_least` that much; a bool is none.

    Args:
        name: of the argument.
        value: of the argument.
        at_least: the smallest integer that is allowed.
        what: what is needed, such as "a number of steps, 1 or more,", for the message.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ValueError(f"{name}={value!r}: {what} is needed")


def check_fraction(name: str, value: object, *, what: str) -> None:
    """Raise a ValueError unless `value` is a number strictly between 0 and 1; a bool is none.

    Args:
        name: of the argument.
        value: of the argument.
        what: what is needed, such as "a share of time between 0 and 1", for the message.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise ValueError(f"{name}={value!r}: {what} is needed")


def check_choice(name: str, value: object, choices: Collection[object]) -> None:
    """Raise a ValueError unless `value` is one of `choices`."""
    if value not in tuple(choices):  # of a dict "in" fails where the value has no hash
        raise ValueError(f"{name}={value!r}: one of {', '.join(map(repr, choices))} is needed")
