"""Symmetric linear operators, known by their products with a vector."""

from curvwatch.operators.base import FunctionOperator, SymmetricOperator, random_signs, unit
from curvwatch.operators.blocks import Block
from curvwatch.operators.fisher import FisherKind, fisher
from curvwatch.operators.gauss_newton import gauss_newton
from curvwatch.operators.hessian import hessian
from curvwatch.operators.scaled import Scaled

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
]
