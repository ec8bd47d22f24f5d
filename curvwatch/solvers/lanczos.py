"""Extreme eigenpairs of a symmetric operator by thick-restart Lanczos."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from curvwatch.operators.base import SymmetricOperator, unit

# combined at a time: a copy of all columns would double the basis
_COLUMNS = 1 << 18


@dataclass(frozen=True)
class Eigenpairs:
    """The algebraically largest (or smallest) eigenpairs that a solver found.

    Attributes:
        values: (m,) float64, leading first.
        vectors: (m, length), unit rows, turned so that none points away from the start.
        residuals: (m,) float64, |A v - value v|; an eigenvalue lies within it of the value.
        errors: (m,) float64, estimate of |value - eigenvalue|: residual^2 / gap to the other Ritz
            values where that is sharper than the residual (Parlett 1998, theorem 11.7.1).
        asymmetry: the largest entry of the projected matrix that symmetry says is zero, relative to
            its norm: rounding, or an operator that is not symmetric.
        converged: whether the pairs asked for meet the tolerance, or are as good as rounding allows.
        rounded: whether it was rounding that ended the solve: then, beside a much larger other end of
            the spectrum, little may be left of a value.
        products: operator products spent.
    """

    values: np.ndarray
    vectors: Tensor
    residuals: np.ndarray
    errors: np.ndarray
    asymmetry: float
    converged: bool
    rounded: bool
    products: int


def lanczos(
    operator: SymmetricOperator,
    *,
    k: int = 1,
    also: int = 0,
    largest: bool = True,
    start: Tensor | None = None,
    rtol: float = 1e-4,
    min_products: int = 1,
    max_products: int = 100,
    basis: int = 24,
    generator: torch.Generator | None = None,
) -> Eigenpairs:
    """The `k` algebraically largest (smallest) eigenpairs of `operator`.

    Full re-orthogonalisation; a basis that is full is restarted from its leading Ritz vectors
    (Wu & Simon 2000). Compare scipy.sparse.linalg.eigsh(A, k, which="LA").

    Args:
        operator: what to solve.
        k: number of eigenpairs that must converge.
        also: number of further Ritz pairs to return, converged or not.
        largest: the largest end of the spectrum, else the smallest.
        start: (length,) first vector; None: a random one. An eigenvector that is orthogonal to it
            is never found, so add a random part to an old solution.
        rtol: residual of each pair relative to the size of its value. With a gap to the next
            eigenvalue the value's own error is about the square of it; but before close eigenvalues
            part, one may pass for another, so a tolerance over 1e-3 is for good starts.
        min_products: the fewest products to spend: before the space has room for several eigenvectors
            a smaller eigenvalue may pass for the largest.
        max_products: the most products to spend.
        basis: the most vectors to keep; `basis` + 1 are stored, and a few of a product's own.
        generator: of the random vectors, on the CPU.

    Raises:
        ValueError: an argument is out of range.
    """
    n = operator.size
    if not 1 <= k <= n:
        raise ValueError(f"k={k}, but the operator has {n} rows: 1 <= k <= {n} is needed")
    if rtol <= 0:
        raise ValueError(f"rtol={rtol}: a positive relative tolerance is needed")
    if max_products < 1:
        raise ValueError(f"max_products={max_products}: at least 1 is needed")
    room = min(n, max(basis, k + also + 3))
    sign = 1.0 if largest else -1.0
    eps = torch.finfo(operator.dtype).eps

    V = torch.empty(room + 1, operator.length, dtype=operator.dtype, device=operator.device)
    T = np.zeros((room, room))
    V[0] = unit(operator, _random(operator, generator) if start is None else start)
    j = products = 0
    first = 0  # rows from here on are coupled to their neighbours alone
    begun = np.eye(1, room)[0]  # the start in terms of the basis
    asymmetry = norm = 0.0
    while True:
        w, column, beta = _orthogonalise(operator, V[: j + 1], sign * operator.matvec(V[j]))
        products += 1
        T[: j + 1, j] = T[j, : j + 1] = column
        asymmetry = max(asymmetry, np.abs(column[first : max(first, j - 1)]).max(initial=0.0))
        if not (np.isfinite(column).all() and np.isfinite(beta)):
            return _nan_eigenpairs(operator, k + also, products)
        j += 1
        theta, S = np.linalg.eigh(T[:j, :j])
        theta, S = theta[::-1], S[:, ::-1]
        norm = max(norm, abs(theta[0]), abs(theta[-1]))
        # products are rounded: no residual is known below eps x norm, nor gets far below 16 times it
        residuals = np.maximum(beta * np.abs(S[-1]), eps * norm)
        floor = 16 * eps * norm
        rounded = bool(j >= k and np.all(residuals[:k] <= floor))
        met = bool(j >= k and np.all(residuals[:k] <= rtol * np.abs(theta[:k])))
        met = met and products >= min_products
        if met or rounded or j == n or products >= max_products:
            break
        if beta <= 4 * eps * norm:  # an invariant subspace
            w = _random(operator, generator)
            w, _, beta = _orthogonalise(operator, V[:j], w)
        if j == room:
            j = min(room - 2, max(k + also + 1, room // 2))
            first = j
            _combine(V[:room], S[:, :j])
            begun = np.append(S[:, :j].T @ begun, np.zeros(room - j))
            T[:] = 0.0
            T[np.arange(j), np.arange(j)] = theta[:j]
        V[j] = w / beta
    m = min(k + also, j)
    _combine(V[:j], S[:, :m] * np.where(begun[:j] @ S[:, :m] < 0, -1.0, 1.0))
    return Eigenpairs(
        values=sign * theta[:m],
        vectors=V[:m],
        residuals=residuals[:m],
        errors=_errors(theta, residuals)[:m],
        asymmetry=asymmetry / norm if norm else 0.0,
        converged=met or rounded or j == n,
        rounded=rounded,
        products=products,
    )


def _orthogonalise(
    operator: SymmetricOperator, rows: Tensor, w: Tensor
) -> tuple[Tensor, np.ndarray, float]:
    """`w`, in place, less its part in the span of `rows`; the part's coefficients; the norm left."""
    column = np.zeros(len(rows))
    for _ in range(2):  # twice is enough (Kahan; Parlett 1998, section 6.9)
        c = operator.inner(rows, w)
        w.addmv_(rows.T, c.to(w.dtype), alpha=-1)
        column += c.cpu().numpy()
    return w, column, float(operator.inner(w[None], w)[0].clamp(min=0.0).sqrt())


def _errors(theta: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    if len(theta) == 1:
        return np.array(residuals)
    distance = np.abs(theta[:, None] - theta[None, :])
    np.fill_diagonal(distance, np.inf)
    # the neighbour is only known to within its own residual
    gap = (distance - residuals[None, :]).min(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        sharp = np.where(gap > residuals, residuals**2 / gap, np.inf)
    return np.array(np.minimum(residuals, sharp))


def _combine(rows: Tensor, coefficients: np.ndarray) -> None:
    """Put combinations of `rows`, one for each column of `coefficients`, in the place of the first."""
    c = torch.from_numpy(np.array(coefficients.T, order="C")).to(rows.device, rows.dtype)
    for part in rows.split(_COLUMNS, dim=1):
        part[: len(c)] = c @ part


def _random(operator: SymmetricOperator, generator: torch.Generator | None) -> Tensor:
    v = torch.randn(operator.length, generator=generator, dtype=operator.dtype)
    return v.to(operator.device)


def _nan_eigenpairs(operator: SymmetricOperator, m: int, products: int) -> Eigenpairs:
    """The nan values of `m` eigenpairs where a product is not finite."""
    nan = np.full(m, np.nan)
    vectors = torch.full((m, operator.length), torch.nan, dtype=operator.dtype)
    return Eigenpairs(
        values=nan,
        vectors=vectors.to(operator.device),
        residuals=nan,
        errors=nan,
        asymmetry=math.nan,
        converged=False,
        rounded=False,
        products=products,
    )
