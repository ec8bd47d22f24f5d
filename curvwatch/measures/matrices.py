"""What measures of whole matrices share: their options, leading eigenvectors, means with errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from curvwatch.measures.base import Landscape
from curvwatch.objective.flat_layout import Layout
from curvwatch.objective.linearization import Linearization
from curvwatch.objective.outputs.output_graph import GivenOutputs, OutputGraphs
from curvwatch.operators import Scaled, SymmetricOperator, fisher, gauss_newton, hessian, unit
from curvwatch.solvers import Eigenpairs, deflated_lanczos, lanczos
from curvwatch.stability import StabilityLaw

# of a warm start, relative to the last vectors: an eigenvector that rises from below is found
_RANDOM_PART = 0.1
_WARM_PRODUCTS = 4
# without one, before close eigenvalues part, a smaller one may look converged
_COLD_RTOL = 1e-4
_COLD_PRODUCTS = 8
_BASIS = 16
# rounding in bfloat16 stays under this; a wrong second derivative was seen at 30 %
_ASYMMETRIC = 0.05


def check_options(*, probes: object, rtol: object, max_products: object) -> None:
    """Raise a ValueError that quotes the first option that is out of range."""
    check_whole("probes", probes, least=2, needed="at least 2 random vectors, for a standard error,")
    if isinstance(rtol, bool) or not isinstance(rtol, (int, float)) or not 0 < rtol < 1:
        raise ValueError(f"rtol={rtol!r}: a relative error between 0 and 1 is needed")
    check_whole("max_products", max_products, least=1, needed="at least one product")


def check_whole(name: str, value: object, *, least: int, needed: str) -> None:
    """Raise a ValueError unless `value` is a whole number of `least` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r}: {needed} is needed")


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
            "functions of a batch and of (outputs, batch), or none"
        )
    return GivenOutputs(outputs_fn, loss_of_outputs)


def leading(
    at: Landscape,
    operator: SymmetricOperator,
    key: str,
    *,
    k: int = 1,
    rtol: float,
    max_products: int,
) -> Eigenpairs:
    """The `k` leading pairs of `operator`, from the vectors kept in memory as `key`.

    Equal ones come as often as they are there, where `k` is over 1.
    """
    last, start = at.memory.get(key), None
    if last is not None and last.shape == (operator.length,):
        noise = torch.randn(operator.length, generator=at.generator, dtype=operator.dtype)
        start = unit(operator, last.to(operator.device, operator.dtype))
        start = start + _RANDOM_PART * unit(operator, noise.to(operator.device))
    cold = start is None
    solve: Callable[..., Eigenpairs] = lanczos if k == 1 else deflated_lanczos
    pairs = solve(
        operator,
        k=k,
        start=start,
        rtol=min(rtol, _COLD_RTOL) if cold else rtol,
        min_products=k - 1 + (_COLD_PRODUCTS if cold else _WARM_PRODUCTS),
        max_products=max(max_products, k),
        basis=max(_BASIS, 2 * k + 4),
        generator=at.generator,
    )
    if np.isfinite(pairs.values).all():
        at.memory[key] = pairs.vectors[:k].mean(dim=0)
    return pairs


def relative_residual(pairs: Eigenpairs) -> float:
    """The largest of the pairs' residuals, each relative to the size of its value."""
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = pairs.residuals / np.abs(pairs.values)
    return float(np.where(pairs.residuals == 0, 0.0, relative).max())


def solver_doubt(metric: str, pairs: Eigenpairs, measure: str) -> str | None:
    """Why `metric`, read from `pairs`, is not to be trusted; None where it is."""
    if pairs.asymmetry > _ASYMMETRIC:
        return (
            f"{metric} is not to be trusted: products are not symmetric (off by {pairs.asymmetry:.1%}),"
            " so an operation of the loss has a wrong derivative or is rounded in half precision"
        )
    if not pairs.converged:
        return (
            f"{metric} did not converge in {pairs.products} products: {pairs.values[0]:.6g} with a "
            f"residual of {pairs.residuals[0]:.2g}; {measure}(max_products=...) allows more"
        )
    return None


def mean_and_error(seen: np.ndarray) -> tuple[float, float]:
    """Mean of `seen` (n,), and its standard error."""
    return float(seen.mean()), float(seen.std(ddof=1)) / math.sqrt(len(seen))


def preconditioned(H: SymmetricOperator, law: StabilityLaw, layout: Layout) -> Scaled:
    """P^-1/2 (H + C) P^-1/2, which has the eigenvalues of P^-1 (H + C)."""
    scale = torch.cat(
        [
            torch.ones(n, dtype=layout.dtype, device=layout.device)
            if P is None
            else P.reshape(-1).to(layout.device).rsqrt().to(layout.dtype)
            for P, n in zip(law.preconditioner, layout.sizes, strict=True)
        ]
    )
    shift = expanded(layout, law.shift) if any(law.shift) else None
    return Scaled(H, scale, shift=shift, sign=law.sign)


def expanded(layout: Layout, of_each: Any) -> Tensor:
    """One number a parameter as a flat vector of shape (size,)."""
    return torch.cat(
        [
            torch.full((n,), float(x), dtype=layout.dtype, device=layout.device)
            for x, n in zip(of_each, layout.sizes, strict=True)
        ]
    )


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
    of: Matrix, at: Landscape, point: Linearization, given: GivenOutputs | None = None
) -> SymmetricOperator:
    """The Hessian H; P^-1/2 (H + C) P^-1/2 of the optimizer; Gauss-Newton; the true Fisher matrix.

    Args:
        of: which.
        at: where.
        point: the linearization there.
        given: what the user says the outputs are.

    Raises:
        CurvwatchError: the outputs are not clear.
    """
    return _MATRICES[of](at, point, given)


def _hessian(at: Landscape, point: Linearization, given: GivenOutputs | None) -> SymmetricOperator:
    return hessian(point)


def _preconditioned(
    at: Landscape, point: Linearization, given: GivenOutputs | None
) -> SymmetricOperator:
    return preconditioned(hessian(point), at.law, at.objective.layout)


def _gauss_newton(at: Landscape, point: Linearization, given: GivenOutputs | None) -> SymmetricOperator:
    return gauss_newton(at.objective, OutputGraphs(at.objective, given))


def _fisher(at: Landscape, point: Linearization, given: GivenOutputs | None) -> SymmetricOperator:
    return fisher(at.objective, OutputGraphs(at.objective, given, known=True), "type1")


_MATRICES: dict[
    Matrix, Callable[[Landscape, Linearization, GivenOutputs | None], SymmetricOperator]
] = {
    "hessian": _hessian,
    "preconditioned": _preconditioned,
    "gauss_newton": _gauss_newton,
    "fisher": _fisher,
}
