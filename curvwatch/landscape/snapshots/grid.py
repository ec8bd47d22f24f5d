"""Which steps of a run get a snapshot, and which of them to leave out when there are too many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

Grid = Literal["1-2-5", "log"]

# of "log", whose steps are 1 to 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 63, 79, 100, 126 ...
_PER_DECADE = 10
# gaps that differ by less are alike
_ROUNDING = 1 + 1e-9


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


def least_missed(steps: Sequence[int], *, even: bool, ended: bool) -> int:
    """Which of `steps`, but the first, to leave out so that the rest is evenly spaced.

    While a run goes on its end is unknown, so a newest step that is near the one before it is itself
    left out, until it is as far away as two of the others that can become one gap: files are of use
    only at distances that grow with the run, as with a stride that doubles. With three
    that is 0, d and 2 d until 4 d, of which one is always a third to two thirds of the way to the end.

    Args:
        steps: in order, three at least.
        even: whether gaps are counted in steps; else in their logarithms.
        ended: whether the last of them is the end, which stays; then that one goes without which the
            largest gap is the fewest times the smallest.
    """
    place = [float(s) if even else math.log1p(s) for s in steps]
    merged = {i: place[i + 1] - place[i - 1] for i in range(1, len(steps) - 1)}
    if ended:
        ratios = {i: _unevenness(place[:i] + place[i + 1 :]) for i in merged}
        least = min(ratios.values()) * _ROUNDING
        return steps[min((i for i in merged if ratios[i] <= least), key=merged.__getitem__)]
    first = min(merged, key=merged.__getitem__)
    newest = len(steps) - 1
    if len(steps) > 3 and (place[-1] - place[-2]) * _ROUNDING < merged[first]:
        return steps[newest]
    return steps[first]


def _unevenness(place: Sequence[float]) -> float:
    """The largest gap over the smallest."""
    gaps = [b - a for a, b in pairwise(place)]
    return max(gaps) / min(gaps)
