"""The matrix that a measure of spectra looks at, chosen by a word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor

from curvwatch.linearization import Linearization
from curvwatch.measures.base import Landscape
from curvwatch.measures.matrices import preconditioned
from curvwatch.operators import SymmetricOperator, fisher, gauss_newton, hessian
from curvwatch.output_graph import GivenOutputs, OutputGraphs

Matrix = Literal["hessian", "preconditioned", "gauss_newton", "fisher"]


def check_matrix(of: object) -> None:
    """Raise a ValueError unless `of` is the word for a matrix."""
    if of not in get_args(Matrix):
        raise ValueError(f"of={of!r}: one of {', '.join(get_args(Matrix))} is needed")


def missing(of: Matrix, at: Landscape) -> str | None:
    """Why there is no such matrix at this step; None where there is."""
    if of == "preconditioned" and at.law.edge is None:
        return at.law.reason or f"{at.law.optimizer} has no law of stability"
    return None


def matrix_of(
    of: Matrix,
    at: Landscape,
    point: Linearization,
    given: GivenOutputs | None = None,
    *,
    null: Tensor | None = None,
) -> SymmetricOperator:
    """The Hessian H; P^-1/2 (H + C) P^-1/2 of the optimizer; Gauss-Newton; the true Fisher matrix.

    Args:
        of: which.
        at: where.
        point: the linearization there.
        given: what the user says the outputs are.
        null: weights whose rows of the preconditioned Hessian are rounding alone.

    Raises:
        CurvwatchError: the outputs are not clear.
    """
    if of == "preconditioned":
        return preconditioned(hessian(point), at.law, at.objective.layout, null=null)
    return _MATRICES[of](at, point, given)


def _hessian(at: Landscape, point: Linearization, given: GivenOutputs | None) -> SymmetricOperator:
    return hessian(point)


def _gauss_newton(at: Landscape, point: Linearization, given: GivenOutputs | None) -> SymmetricOperator:
    return gauss_newton(at.objective, OutputGraphs(at.objective, given))


def _fisher(at: Landscape, point: Linearization, given: GivenOutputs | None) -> SymmetricOperator:
    return fisher(at.objective, OutputGraphs(at.objective, given, known=True), "type1")


_MATRICES: dict[
    Matrix, Callable[[Landscape, Linearization, GivenOutputs | None], SymmetricOperator]
] = {
    "hessian": _hessian,
    "gauss_newton": _gauss_newton,
    "fisher": _fisher,
}
