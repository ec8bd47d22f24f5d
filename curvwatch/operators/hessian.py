"""The Hessian of an objective at one point."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from curvwatch.objective.flat_layout import Layout
from curvwatch.objective.layers import part_of, places_of
from curvwatch.objective.linearization import Linearization
from curvwatch.operators.base import FunctionOperator, SymmetricOperator


def hessian(
    point: Linearization, *, product: Callable[[Tensor], Tensor] | None = None
) -> FunctionOperator:
    """The Hessian at `point` as an operator of shape (size, size); by another `product` if given."""
    return FunctionOperator(
        product or point.product,
        size=point.layout.total,
        dtype=point.gradient.dtype,
        device=point.gradient.device,
        length=point.layout.size,
        inner=point.layout.inner,
    )


class Scaled:
    """S (sign A + C) S, for diagonal S and C.

    With S = P^-1/2 its eigenvalues are those of P^-1 (sign A + C).

    Args:
        operator: A.
        scale: the diagonal of S, shape (length,).
        shift: the diagonal of C, shape (length,), or None for zero.
        sign: 1, or -1 for -A.
        null: indices of rows and columns of A that are taken for zero; None: of none.

    Attributes:
        scale: the diagonal of S.
    """

    def __init__(
        self,
        operator: SymmetricOperator,
        scale: Tensor,
        *,
        shift: Tensor | None = None,
        sign: float = 1.0,
        null: Tensor | None = None,
    ) -> None:
        self._operator = operator
        self.scale = scale
        self._shift = shift
        self._sign = sign
        self._null = null

    @property
    def size(self) -> int:
        """Number of rows."""
        return self._operator.size

    @property
    def length(self) -> int:
        """Entries of a vector on this process."""
        return self._operator.length

    @property
    def dtype(self) -> torch.dtype:
        """Of the vectors."""
        return self._operator.dtype

    @property
    def device(self) -> torch.device:
        """Of the vectors."""
        return self._operator.device

    def matvec(self, v: Tensor) -> Tensor:
        """S (sign A + C) S v."""
        u = self.scale * v
        w = self._sign * self._without_null(self._operator.matvec(self._without_null(u)))
        if self._shift is not None:
            w = w + self._shift * u
        return self.scale * w

    def inner(self, rows: Tensor, v: Tensor) -> Tensor:
        """As the wrapped operator's."""
        return self._operator.inner(rows, v)

    def _without_null(self, v: Tensor) -> Tensor:
        return v if self._null is None else v.index_fill(0, self._null, 0.0)


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
