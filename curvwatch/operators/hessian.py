"""The Hessian of an objective at one point."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from curvwatch.objective.linearization import Linearization
from curvwatch.operators.base import FunctionOperator


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
