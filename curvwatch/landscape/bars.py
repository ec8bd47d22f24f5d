"""Progress bars."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def bar(items: Iterable[T], what: str, *, total: int, show: bool) -> Iterable[T]:
    """`items`, with a bar on stderr while they are taken."""
    if not show:
        return items
    from tqdm.auto import tqdm  # a dependency of lightning

    bar: Iterable[T] = tqdm(items, desc=what, total=total, leave=False)
    return bar
