"""Which of many parameters `make test` takes; the others are left to `make test-studies`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest


def _itself(value: Any) -> Any:
    return value


def only(
    values: Iterable[Any], *, take: Collection[Any], key: Callable[[Any], Any] = _itself
) -> list[Any]:
    """All of `values`, for `parametrize`; those whose `key` is not in `take` are studies."""
    return _marked(list(values), take, key, study=lambda known: known not in take)


def without(
    values: Iterable[Any], *, leave: Collection[Any], key: Callable[[Any], Any] = _itself
) -> list[Any]:
    """All of `values`, for `parametrize`; those whose `key` is in `leave` are studies."""
    return _marked(list(values), leave, key, study=lambda known: known in leave)


def _marked(
    values: list[Any],
    named: Collection[Any],
    key: Callable[[Any], Any],
    *,
    study: Callable[[Any], bool],
) -> list[Any]:
    unknown = [name for name in named if name not in [key(value) for value in values]]
    if unknown:
        raise ValueError(f"there are no parameters {unknown}")
    return [_study(value) if study(key(value)) else value for value in values]


def _study(value: Any) -> Any:
    parts = value if isinstance(value, tuple) else (value,)
    return pytest.param(*parts, marks=pytest.mark.study)
