"""Checks of arguments that several classes have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Mode = Literal["train", "eval"]


def check_budget(budget: object) -> None:
    """Raise a ValueError unless `budget` is a share between 0 and 1."""
    if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not 0 < budget < 1:
        raise ValueError(f"budget={budget!r}: a share of time between 0 and 1 is needed")


def check_word(argument: str, value: object, known: Sequence[str]) -> None:
    """Raise a ValueError unless `value` is one of `known`."""
    if value not in known:
        raise ValueError(f"{argument}={value!r}: one of {', '.join(map(repr, known))} is needed")
