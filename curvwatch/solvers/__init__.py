"""Algorithms that know a matrix by its products alone."""

from curvwatch.solvers.lanczos import Eigenpairs, lanczos

__all__ = ["Eigenpairs", "lanczos"]
