"""Symmetric linear operators, known by their products with a vector."""

from curvwatch.operators.base import (
    FunctionOperator,
    SymmetricOperator,
    random_signs,
    unit,
    with_product,
)
from curvwatch.operators.gauss_newton import FisherKind, fisher, gauss_newton
from curvwatch.operators.hessian import Block, Scaled, hessian

__all__ = [
    "Block",
    "FisherKind",
    "FunctionOperator",
    "Scaled",
    "SymmetricOperator",
    "fisher",
    "gauss_newton",
    "hessian",
    "random_signs",
    "unit",
    "with_product",
]
