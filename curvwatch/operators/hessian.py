"""The Hessian of an objective at one point."""

from __future__ import annotations

from curvwatch.objective import Linearization
from curvwatch.operators.base import FunctionOperator


def hessian(point: Linearization) -> FunctionOperator:
    """The Hessian at `point` as an operator of shape (size, size)."""
    return FunctionOperator(
        point.product,
        size=point.gradient.numel(),
        dtype=point.gradient.dtype,
        device=point.gradient.device,
    )
