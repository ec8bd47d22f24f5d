"""A progress bar over evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from typing import TypeVar

T = TypeVar("T")


def shown(items: Sequence[T], label: str, *, progress: bool) -> Iterator[T]:
    """`items` one by one, with a progress bar on a terminal where tqdm is installed."""
    bar: Iterable[T] = items
    # lightning brings it, but may not for ever
    if progress and find_spec("tqdm") is not None:
        from tqdm import tqdm

        bar = tqdm(items, desc=label, leave=False, disable=None)
    yield from bar
