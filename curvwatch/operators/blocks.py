"""The diagonal blocks of an operator: one for each layer of a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from curvwatch.objective.flat_layout import Layout
from curvwatch.objective.layers import part_of, places_of
from curvwatch.operators.base import FunctionOperator, SymmetricOperator


class Block(FunctionOperator):
    """E' A E, E the columns of the identity that belong to some of the parameters.

    Args:
        operator: A, on vectors of `layout`.
        layout: of all parameters.
        indices: of the block's.

    Attributes:
        layout: of the block's parameters alone.
    """

    def __init__(self, operator: SymmetricOperator, layout: Layout, indices: Sequence[int]) -> None:
        self.layout = part_of(layout, indices)
        self._whole = operator.length
        self._places = places_of(layout, indices)
        super().__init__(
            lambda v: self.cut(operator.matvec(self.padded(v))),
            size=self.layout.total,
            length=self.layout.size,
            inner=self.layout.inner,
            dtype=operator.dtype,
            device=operator.device,
        )

    def cut(self, whole: Tensor) -> Tensor:
        """E' v: the block's entries of `whole` (length of A,), a copy."""
        return torch.cat([whole[place] for place in self._places])

    def padded(self, part: Tensor) -> Tensor:
        """E v: `part` (length,) among zeros, shape (length of A,)."""
        whole = torch.zeros(self._whole, dtype=part.dtype, device=part.device)
        self.put(part, whole)
        return whole

    def put(self, part: Tensor, whole: Tensor) -> None:
        """Write `part` (length,) to its place in `whole` (length of A,)."""
        start = 0
        for place in self._places:
            size = place.stop - place.start
            whole[place] = part[start : start + size]
            start += size
