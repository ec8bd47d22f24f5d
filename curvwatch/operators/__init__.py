"""Symmetric linear operators, known by their products with a vector."""

from curvwatch.operators.base import FunctionOperator, SymmetricOperator, random_signs, unit
from curvwatch.operators.blocks import Block
from curvwatch.operators.hessian import hessian
from curvwatch.operators.scaled import Scaled

__all__ = [
    "Block",
    "FunctionOperator",
    "Scaled",
    "SymmetricOperator",
    "hessian",
    "random_signs",
    "unit",
]
