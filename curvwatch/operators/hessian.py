"""The Hessian of an objective at one point, scaled by a preconditioner, and its diagonal blocks."""

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


class Scaled(FunctionOperator):
    """S (sign A + C) S, for diagonal S and C.

    With S = P^-1/2 its eigenvalues are those of P^-1 (sign A + C).

    Args:
        operator: A.
        scale: the diagonal of S, shape (length,).
        shift: the diagonal of C, shape (length,), or None for zero.
        sign: 1, or -1 for -A.
        null: indices of the rows and columns of A that are taken as zero; None: of none.

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
        self.scale = scale

        def without_null(v: Tensor) -> Tensor:
            return v if null is None else v.index_fill(0, null, 0.0)

        def product(v: Tensor) -> Tensor:
            u = scale * v
            w = sign * without_null(operator.matvec(without_null(u)))
            if shift is not None:
                w = w + shift * u
            return scale * w

        super().__init__(
            product,
            size=operator.size,
            dtype=operator.dtype,
            device=operator.device,
            length=operator.length,
            inner=operator.inner,
        )


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
            dtype=operator.dtype,
            device=operator.device,
            length=self.layout.size,
            inner=self.layout.inner,
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
