"""What measures of whole matrices share: their options, leading eigenvectors, means with errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
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
# P is small where it is under so many eps of that of the leading directions
_SMALL = 1e3
# by how much two products differ, relative to their size: real ones by less, seen at 1e-6 to 1e-3;
# rounding alone by more, 99 % of one draw, and as a rule of three
_AGREE, _DIFFER = 0.02, 0.2
# coarse products, by differences or in half precision, by so many times what is usual
_OVER_USUAL = 10.0
_MOST_DRAWS = 3
# of an eigenvalue: rounding adds a small part of its Frobenius norm to one
_NOISY = 0.1
# rows that the usual difference is taken of, and parameters that are named
_ROWS, _NAMED = 1 << 20, 3


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


@dataclass(frozen=True)
class Amplification:
    """What P^-1/2 makes of the rounding of Hessian-vector products.

    Attributes:
        null: indices of the weights that the loss does not depend on, as far as products tell; None: of
            none.
        hidden: the largest row of the preconditioned Hessian that could be hidden under the rounding of
            these weights, where products are differences of gradients; else 0.
        noise: what rounding adds to the rows of the other weights with a small P, as a Frobenius norm.
        weights: which weights these are, in words.
    """

    null: Tensor | None = None
    hidden: float = 0.0
    noise: float = 0.0
    weights: str = ""

    def doubt(self, metric: str, value: float) -> str | None:
        """Why `metric`, an eigenvalue, is not to be trusted; None where rounding leaves it be."""
        if self.noise <= _NOISY * abs(value) and self.hidden <= abs(value):
            return None
        return (
            f"{metric} drowns in rounding: {value:.3g} +- {max(self.noise, self.hidden):.2g}, for the "
            "optimizer's small second moments amplify the rounding of Hessian-vector products in "
            f"{self.weights}; precision='64-true' would tell, and where a bias stands before a "
            "normalisation bias=False removes the cause"
        )


def amplification(at: Landscape, point: Linearization, key: str) -> Amplification:
    """What is rounding in P^-1/2 H P^-1/2, kept in memory as `key`; no products where P is not small.

    The loss does not depend on a bias before BatchNorm, nor on the bias of the keys in attention. Their
    gradients and products are rounding alone, so the optimizer's P is tiny there and P^-1/2 amplifies
    it. Products with v and with v / 3 tell them, which have the same digits but for rounding: where P
    is so small that rounding might matter, and the two differ by as much as they are large, there is
    nothing else. Rows that are tiny but real agree. It takes two products while it finds what it found
    last time, else six.
    """
    none = Amplification()
    if not at.law.adaptive:
        return none
    layout = at.objective.layout
    scale = _scale(at.law, layout)
    gradient = torch.where(scale > 0, point.gradient, 0.0)
    seen = torch.where(scale > 0, gradient / scale, 0.0)
    length, preconditioned_length = layout.dot(gradient, gradient), layout.dot(seen, seen)
    if not (0 < length < math.inf and 0 < preconditioned_length < math.inf):
        return none
    # P of the leading directions, among which the gradient is, is about g'Pg / g'g; rounding in an
    # entry of H is some 10 eps x its largest eigenvalue, and matters from 1 % on
    least = _SMALL * torch.finfo(layout.dtype).eps * preconditioned_length / length
    suspects = scale.square() * least > 1.0
    if not at.objective.any_process(bool(suspects.any())):
        return none
    generator = torch.Generator().manual_seed(at.generator.initial_seed())
    known = torch.zeros_like(suspects)
    last = at.memory.get(key, ())
    if len(last) and int(last.max()) < layout.size:
        known[last.to(known.device)] = True
    size, off = torch.zeros_like(scale), torch.zeros_like(scale)
    draws = 0
    while True:
        draws += 1
        # no signs: rounding comes of the digits of v, which would be the same in every draw
        v = scale * torch.randn(layout.size, generator=generator, dtype=layout.dtype).to(layout.device)
        one = point.product(v)
        other = 3.0 * point.product(v / 3.0) if point.coarser is None else point.coarser(v)
        size += torch.maximum(one.abs(), other.abs()).square_()
        off += (one - other).square_()
        if at.objective.any_process(not bool(torch.isfinite(size).all())):
            return none
        usual = _usual_rounding(size, off, suspects)
        agree = min(max(_AGREE, _OVER_USUAL * usual), _DIFFER)
        null = suspects & (off > torch.where(known, agree / 10, agree).square() * size)
        # a product may be small by chance: what was not found last time is looked at again
        is_known = not at.objective.any_process(not torch.equal(null, known))
        if is_known or draws == _MOST_DRAWS:
            break
    null &= known | (off > _DIFFER**2 * size)
    at.memory[key] = null.nonzero()[:, 0]
    rest = suspects & ~null
    rows = scale * off.sqrt() / math.sqrt(2 * draws)
    under = torch.where(null, scale * size.sqrt() / math.sqrt(draws), 0.0)
    return Amplification(
        null=at.memory[key] if at.objective.any_process(bool(null.any())) else None,
        hidden=_largest(layout, under) if point.coarser is not None else 0.0,
        noise=_largest(layout, torch.where(rest, rows, 0.0), power=2),
        weights=_counted(suspects & (off > 0), at),
    )


def _largest(layout: Layout, rows: Tensor, *, power: int = 8) -> float:
    """A norm of `rows` over all processes; for power 8 the largest of n, n^(1/8) times it at most."""
    length = math.sqrt(layout.dot(rows, rows))
    if power == 2 or length == 0.0:
        return length
    shares = (rows / length) ** (power // 2)
    return length * float(layout.dot(shares, shares) ** (1 / power))


def _usual_rounding(size: Tensor, off: Tensor, suspects: Tensor) -> float:
    """The median over other rows of how far products are off, relative to their size."""
    step = max(1, len(size) // _ROWS)
    size, off = size[::step], off[::step]
    rows = (size > 0) & ~suspects[::step]
    return math.sqrt(float((off[rows] / size[rows]).median())) if bool(rows.any()) else 0.0


def _counted(rows: Tensor, at: Landscape) -> str:
    """How many weights `rows` are, and of which parameters."""
    ends = torch.tensor(at.objective.layout.sizes).cumsum(0)
    indices = rows.nonzero()[:, 0].cpu()
    of = torch.bucketize(indices, ends, right=True).unique().tolist()
    names = [at.objective.objective.names[i] for i in of]
    more = f" and {len(names) - _NAMED} other parameters" if len(names) > _NAMED else ""
    return f"{len(indices)} weights of {', '.join(names[:_NAMED])}{more}"


def preconditioned(
    H: SymmetricOperator, law: StabilityLaw, layout: Layout, *, null: Tensor | None = None
) -> Scaled:
    """P^-1/2 (H + C) P^-1/2, which has the eigenvalues of P^-1 (H + C).

    Rows and columns of H that are `null`, see `Amplification`, are taken for zero.
    """
    shift = expanded(layout, law.shift) if any(law.shift) else None
    return Scaled(H, _scale(law, layout), shift=shift, sign=law.sign, null=null)


def _scale(law: StabilityLaw, layout: Layout) -> Tensor:
    """The diagonal of P^-1/2."""
    return torch.cat(
        [
            torch.ones(n, dtype=layout.dtype, device=layout.device)
            if P is None
            else P.reshape(-1).to(layout.device).rsqrt().to(layout.dtype)
            for P, n in zip(law.preconditioner, layout.sizes, strict=True)
        ]
    )


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
