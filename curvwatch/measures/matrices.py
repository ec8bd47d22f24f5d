"""What measures of whole matrices share.

Checks of their options, leading eigenpairs that start from those of the last reading, doubts about
them, means with errors, and the matrices: of the Hessian the preconditioned one, Gauss-Newton, Fisher.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from curvwatch.checks import check_choice, check_fraction, check_int
from curvwatch.measures.base import Landscape
from curvwatch.objective.flat_layout import Layout
from curvwatch.objective.linearization import Linearization
from curvwatch.objective.outputs.output_graph import GivenOutputs, OutputGraphs
from curvwatch.operators import Scaled, SymmetricOperator, fisher, gauss_newton, hessian, unit
from curvwatch.solvers import Eigenpairs, deflated_lanczos, lanczos
from curvwatch.stability import StabilityLaw

Matrix = Literal["hessian", "preconditioned", "gauss_newton", "fisher"]

_BASIS = 16
# a power of 2, so exact: every float64 number times it has a square that is finite
_SHRINK = 2.0**-600
# of products, relative: rounding in bfloat16 stays under it, a wrong second derivative was seen at 30 %
ASYMMETRIC = 0.05
# a difference of gradients, or a value of them, with a larger relative error is not used
COARSEST = 0.01
PRODUCTS_NOT_FINITE = "Hessian-vector products on the probe are not finite"


def check_options(*, probes: object, rtol: object, max_products: object) -> None:
    """Raise a ValueError that quotes the first option that is out of range."""
    check_int("probes", probes, at_least=2, what="at least 2 random vectors, for a standard error,")
    check_solver(rtol=rtol, max_products=max_products)


def check_solver(*, rtol: object, max_products: object) -> None:
    """Raise a ValueError that quotes the first option of a solver that is out of range."""
    check_fraction("rtol", rtol, what="a relative error between 0 and 1")
    check_int("max_products", max_products, at_least=1, what="at least one product")


def given_outputs(
    outputs_fn: Callable[[Any], Any] | None, loss_of_outputs: Callable[[Any, Any], Any] | None
) -> GivenOutputs | None:
    """What the user says the outputs are; None: nothing.

    Raises:
        ValueError: one of the two is missing or no function.
    """
    if outputs_fn is None and loss_of_outputs is None:
        return None
    if not (callable(outputs_fn) and callable(loss_of_outputs)):
        raise ValueError(
            f"outputs_fn={outputs_fn!r}, loss_of_outputs={loss_of_outputs!r}: both are needed, "
            "functions of a batch and of (outputs, batch), or neither"
        )
    return GivenOutputs(outputs_fn, loss_of_outputs)


def finite_or_note(point: Linearization) -> str | None:
    """A note that loss or gradient at `point` are not finite; None where they are."""
    size = vector_norm(point.layout, point.gradient)  # the same on all processes
    return None if math.isfinite(point.loss) and math.isfinite(size) else not_finite(point.loss)


def vector_norm(layout: Layout, v: Tensor) -> float:
    """Norm of the flat vector `v`, even where its square overflows; not finite if an entry is not."""
    square = layout.dot(v, v)
    if math.isfinite(square):
        return math.sqrt(square)
    # only float64 overflows; a fixed factor, no maximum, is the same on all processes
    small = v * _SHRINK
    return math.sqrt(layout.dot(small, small)) / _SHRINK


def not_finite(loss: float) -> str:
    """The note for a `loss` that is not finite, or whose gradient is not."""
    return f"on the probe the loss is {loss} or its gradient is not finite"


@dataclass(frozen=True)
class Tracking:
    """How a solver follows leading eigenvectors from reading to reading.

    Attributes:
        random_part: of a start, relative to the last vectors: an eigenvector that rises from below is
            found.
        gradient_part: of the gradient, which lies among the leading eigenvectors (Gur-Ari 2018).
        turned: whether the gradient is turned so that it does not point away from the last vectors.
        normalized: whether the last vectors are normalized; False where they are a unit vector.
        products: the fewest that a solve takes from the last vectors.
        cold_products: the fewest without them, over those that k pairs need.
        cold_rtol: residual without them: before close eigenvalues separate, a smaller one may
            seem converged.
    """

    random_part: float = 0.1
    gradient_part: float = 0.1
    turned: bool = False
    normalized: bool = True
    products: int = 4
    cold_products: int = 8
    cold_rtol: float = 1e-4


DEFAULT_TRACKING = Tracking()


def mean_vector(pairs: Eigenpairs, k: int) -> Tensor:
    """The mean of the first `k` eigenvectors, shape (length,): where the next solve starts."""
    return pairs.vectors[:k].mean(dim=0)


def leading_pairs(
    at: Landscape,
    operator: SymmetricOperator,
    key: str,
    *,
    k: int = 1,
    further: int = 0,
    rest: bool = False,
    rtol: float,
    max_products: int,
    basis: int | None = None,
    gradient: Callable[[], Tensor] | None = None,
    tracking: Tracking = DEFAULT_TRACKING,
    start_of: Callable[[Eigenpairs, int], Tensor] = mean_vector,
) -> Eigenpairs:
    """The `k` leading pairs of `operator`, from the vectors of the last reading.

    Equal ones come as often as they are there, where `k` is over 1 or `rest` is set.

    Args:
        at: where; its memory has the vectors of the last reading, and its generator draws.
        operator: what to solve.
        key: of the vectors in memory.
        k: number of pairs.
        further: of a single pair: how many others to return, converged or not.
        rest: whether to return the pair after the `k`, too, see `deflated_lanczos`.
        rtol: relative residual at which the solver stops.
        max_products: the most products.
        basis: the most vectors that the solver keeps.
        gradient: makes the gradient in the operator's coordinates, a part of the start.
        tracking: how the solve starts.
        start_of: makes from the pairs the vector that is kept in memory.
    """
    start = _warm_start(at, operator, key, gradient, tracking)
    warm = start is not None
    solve = partial(deflated_lanczos, rest=rest) if k > 1 or rest else partial(lanczos, also=further)
    pairs = solve(
        operator,
        k=k,
        start=start,
        rtol=rtol if warm else min(rtol, tracking.cold_rtol),
        min_products=k - 1 + (tracking.products if warm else tracking.cold_products),
        max_products=max(max_products, k),
        basis=max(_BASIS, 2 * k + 4) if basis is None else basis,
        generator=at.generator,
    )
    if np.isfinite(pairs.values).all():
        at.memory[key] = start_of(pairs, k)
    return pairs


def _warm_start(
    at: Landscape,
    operator: SymmetricOperator,
    key: str,
    gradient: Callable[[], Tensor] | None,
    tracking: Tracking,
) -> Tensor | None:
    """The last leading vectors with parts of a random vector and of the gradient; None at first."""
    last = at.memory.get(key)
    if last is None or last.shape != (operator.length,):
        return None
    last = last.to(operator.device, operator.dtype)
    if tracking.normalized:
        last = unit(operator, last)
    noise = torch.randn(operator.length, generator=at.generator, dtype=operator.dtype)
    start: Tensor = last + tracking.random_part * unit(operator, noise.to(operator.device))
    if gradient is None:
        return start
    g, part = gradient(), tracking.gradient_part
    if tracking.turned and float(operator.inner(g[None], last)[0]) < 0:
        part = -part
    return start + part * unit(operator, g)


def relative(deviation: float, value: float) -> float:
    """`deviation` over the size of `value`; 0 where there is none, inf where only `value` is 0."""
    return deviation / abs(value) if value else (0.0 if deviation == 0.0 else math.inf)


def relative_residual(pairs: Eigenpairs) -> float:
    """The largest of the pairs' residuals, each relative to the size of its value."""
    with np.errstate(divide="ignore", invalid="ignore"):
        residuals = pairs.residuals / np.abs(pairs.values)
    return float(np.where(pairs.residuals == 0, 0.0, residuals).max())


def solver_doubt(metric: str, pairs: Eigenpairs, measure: str) -> str | None:
    """Why `metric`, the first value of `pairs`, is not to be trusted; None where it is."""
    return asymmetry_doubt(metric, pairs) or convergence_doubt(metric, pairs, measure)


def asymmetry_doubt(metric: str, pairs: Eigenpairs) -> str | None:
    """That products are not symmetric, so that `metric` is not to be trusted; None where they are."""
    if not pairs.asymmetry > ASYMMETRIC:
        return None
    return (
        f"{metric} is not to be trusted: products are not symmetric (off by {pairs.asymmetry:.1%}), so "
        "an operation of the loss has a wrong derivative or is rounded in half precision"
    )


def convergence_doubt(metric: str, pairs: Eigenpairs, measure: str) -> str | None:
    """That the solver of `metric` stopped early; None where it converged."""
    if pairs.converged:
        return None
    return (
        f"{metric} did not converge in {pairs.products} products: {pairs.values[0]:.6g} with a "
        f"residual of {pairs.residuals[0]:.2g}; {measure}(max_products=...) allows more"
    )


def difference_doubt(metric: str, error: float) -> str | None:
    """That differences of gradients are too coarse for `metric`; None where they are not.

    Args:
        metric: whose value it is.
        error: of the value, relative: how far it is from that of differences over twice the distance.
    """
    if error <= COARSEST:
        return None
    return (
        f"{metric} is not to be trusted: differences of gradients over twice the distance give a value "
        f"that is off by {error:.1%}, so the gradient has kinks or is rounded"
    )


def mean_and_error(samples: np.ndarray) -> tuple[float, float]:
    """Mean of `samples` (n,), and its standard error."""
    return float(samples.mean()), float(samples.std(ddof=1)) / math.sqrt(len(samples))


def preconditioned(
    H: SymmetricOperator, law: StabilityLaw, layout: Layout, *, null: Tensor | None = None
) -> Scaled:
    """P^-1/2 (H + C) P^-1/2, which has the eigenvalues of P^-1 (H + C).

    Rows and columns of H that are `null`, see `Amplification`, are taken as zero.
    """
    shift = expand_per_parameter(layout, law.shift) if any(law.shift) else None
    return Scaled(H, inverse_root(law, layout), shift=shift, sign=law.sign, null=null)


def inverse_root(law: StabilityLaw, layout: Layout) -> Tensor:
    """The diagonal of P^-1/2."""
    return torch.cat(
        [
            torch.ones(n, dtype=layout.dtype, device=layout.device)
            if P is None
            else P.reshape(-1).to(layout.device).rsqrt().to(layout.dtype)
            for P, n in zip(law.preconditioner, layout.sizes, strict=True)
        ]
    )


def expand_per_parameter(layout: Layout, of_each: Any) -> Tensor:
    """One number a parameter as a flat vector of shape (size,)."""
    return torch.cat(
        [
            torch.full((n,), float(x), dtype=layout.dtype, device=layout.device)
            for x, n in zip(of_each, layout.sizes, strict=True)
        ]
    )


def check_matrix(of: object) -> None:
    """Raise a ValueError unless `of` is the word for a matrix."""
    check_choice("of", of, get_args(Matrix))


def reason_missing(of: Matrix, at: Landscape) -> str | None:
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
    if of == "hessian":
        return hessian(point)
    if of == "preconditioned":
        return preconditioned(hessian(point), at.law, at.objective.layout, null=null)
    if of == "gauss_newton":
        return gauss_newton(at.objective, OutputGraphs(at.objective, given))
    return fisher(at.objective, OutputGraphs(at.objective, given, known=True), "type1")
