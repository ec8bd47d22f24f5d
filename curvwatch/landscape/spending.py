"""What a look at a surface costs."""

from __future__ import annotations

from dataclasses import astuple, replace

from curvwatch.landscape.surface import Surface
from curvwatch.objective import Counts


class Spending:
    """What a surface spends in the block.

    Args:
        surface: which counts.

    Attributes:
        cost: in passes over all batches, when the block has ended.
    """

    def __init__(self, surface: Surface) -> None:
        self._surface = surface
        self.cost = Counts()

    def __enter__(self) -> Spending:
        self._before = replace(self._surface.counts)
        return self

    def __exit__(self, *_: object) -> None:
        now, before = astuple(self._surface.counts), astuple(self._before)
        self.cost = Counts(*(n - b for n, b in zip(now, before, strict=True)))


def total(*costs: Counts) -> Counts:
    """The sum of them."""
    return Counts(*map(sum, zip(*map(astuple, costs), strict=True)))
