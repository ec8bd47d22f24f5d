"""A progress bar over evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def shown(items: Sequence[T], label: str, *, progress: bool) -> Iterator[T]:
    """`items` one by one, with a progress bar on a terminal where tqdm is installed."""
    bar: Iterable[T] = items
    if progress:
        try:
            from tqdm import tqdm
        except ImportError:  # lightning brings it, but may not for ever
            pass
        else:
            bar = tqdm(items, desc=label, leave=False, disable=None)
    yield from bar
