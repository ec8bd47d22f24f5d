"""Symmetric linear operators, known by their products with a vector."""

from curvwatch.operators.base import FunctionOperator, SymmetricOperator, unit
from curvwatch.operators.hessian import hessian
from curvwatch.operators.scaled import Scaled

__all__ = ["FunctionOperator", "Scaled", "SymmetricOperator", "hessian", "unit"]
