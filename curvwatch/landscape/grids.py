"""Which steps of a run get a snapshot, and which of them to leave out when there are too many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Grid = Literal["1-2-5", "log"]

# of "log", whose steps are 1 to 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 63, 79, 100, 126 ...
_PER_DECADE = 10


def is_due(before: int, now: int, *, every: int | None, grid: Grid) -> bool:
    """Whether a step after `before`, up to `now`, is one of the grid, or a multiple of `every`."""
    if every is not None:
        return now // every > before // every
    return _latest(now, grid) > before


def _latest(step: int, grid: Grid) -> int:
    """The last step of the grid up to `step`, which is 1 or more; else 0."""
    if step < 1:
        return 0
    decade = math.floor(math.log10(step))
    if grid == "1-2-5":
        each = [f * 10**d for d in (decade - 1, decade, decade + 1) for f in (1, 2, 5) if d >= 0]
    else:
        place = math.floor(_PER_DECADE * math.log10(step))
        each = [round(10 ** (k / _PER_DECADE)) for k in range(max(0, place - 1), place + 2)]
    return max((s for s in each if s <= step), default=0)


def least_missed(steps: Sequence[int], *, even: bool) -> int:
    """Which of `steps`, but the first and the last, leaves the smallest gap when it goes.

    Args:
        steps: in order, three at least.
        even: whether gaps are counted in steps; else in their logarithms.
    """
    place = [float(s) if even else math.log1p(s) for s in steps]
    gaps = {steps[i]: place[i + 1] - place[i - 1] for i in range(1, len(steps) - 1)}
    return min(gaps, key=gaps.__getitem__)
