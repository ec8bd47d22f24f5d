"""Checks of arguments: what they refuse, and that they quote it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from curvwatch.checks import check_choice, check_fraction, check_int


@pytest.mark.parametrize("value", [2, 3, 10**30])
def test_integers_from_the_least_on_are_taken(value: int) -> None:
    check_int("n", value, at_least=2, what="a number of steps, 2 or more,")


@pytest.mark.parametrize("value", [1, -2, 2.0, True, "2", None, math.nan])
def test_other_integers_and_what_is_none_are_quoted(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^n=.*: a number of steps, 2 or more, is needed$") as refused:
        check_int("n", value, at_least=2, what="a number of steps, 2 or more,")
    assert f"n={value!r}: " in str(refused.value)


@pytest.mark.parametrize("value", [0.5, 1e-300, 1 - 1e-9])
def test_fractions_are_taken(value: float) -> None:
    check_fraction("share", value, what="a number between 0 and 1")


@pytest.mark.parametrize(
    "value", [0, 1, 0.0, 1.0, -0.5, 2, True, False, math.nan, math.inf, "0.5", None]
)
def test_the_ends_and_what_is_no_fraction_are_quoted(value: Any) -> None:
    with pytest.raises(ValueError) as refused:
        check_fraction("share", value, what="a number between 0 and 1")
    assert str(refused.value) == f"share={value!r}: a number between 0 and 1 is needed"


@pytest.mark.parametrize("value", ["c", None, ["a"]])
def test_choices_are_listed(value: Any) -> None:
    for choices in (("a", "b"), {"a": 1, "b": 2}):
        check_choice("letter", "b", choices)
        with pytest.raises(ValueError) as refused:
            check_choice("letter", value, choices)
        assert str(refused.value) == f"letter={value!r}: one of 'a', 'b' is needed"
