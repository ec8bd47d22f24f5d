"""Algorithms that know a matrix by its products alone."""

from curvwatch.solvers.deflated import deflated_lanczos
from curvwatch.solvers.lanczos import Eigenpairs, lanczos
from curvwatch.solvers.outliers import FEWEST_VALUES, Outliers, count_outliers
from curvwatch.solvers.quadrature import Density, Estimate, Quadrature, stochastic_lanczos

__all__ = [
    "FEWEST_VALUES",
    "Density",
    "Eigenpairs",
    "Estimate",
    "Outliers",
    "Quadrature",
    "count_outliers",
    "deflated_lanczos",
    "lanczos",
    "stochastic_lanczos",
]
