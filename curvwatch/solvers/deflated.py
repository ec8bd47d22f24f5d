"""Leading eigenpairs with their multiplicities, by Lanczos on what is left of an operator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from curvwatch.operators.base import FunctionOperator, SymmetricOperator, with_product
from curvwatch.solvers.lanczos import Eigenpairs, lanczos

# products of a solve for what is left: a smaller eigenvalue may pass for its largest before
_FEWEST = 8
# residual of such a solve, relative to its value
_RTOL = 0.05


def deflated_lanczos(
    operator: SymmetricOperator,
    *,
    k: int,
    rest: bool = False,
    start: Tensor | None = None,
    rtol: float = 1e-3,
    min_products: int = 1,
    max_products: int = 300,
    basis: int = 24,
    generator: torch.Generator | None = None,
) -> Eigenpairs:
    """The `k` algebraically largest eigenpairs of `operator`, each as often as it is there.

    From one vector Lanczos finds one vector of each eigenspace, so of equal eigenvalues one, and one
    that its start hardly has a part of may come late. So the pairs that it found are moved to the lower
    end of the spectrum (Hotelling deflation; Parlett 1998, section 5.1), and the largest eigenvalue of
    what is left is looked for, until it is no larger than the smallest pair.

    Args:
        operator: what to solve.
        k: number of eigenpairs, at most `operator.size`.
        rest: whether to return the largest pair of what is left, too, as it came out of the last solve:
            its residual may be large. There is none where `k` are all, or a product is not finite.
        start: as that of `lanczos`.
        rtol: residual of each pair relative to the size of its value.
        min_products: as that of `lanczos`.
        max_products: the most products of all solves together, but for some ten of the last one.
        basis: as that of `lanczos`.
        generator: of the random vectors, on the CPU.
    """
    pairs = lanczos(
        operator,
        k=k,
        start=start,
        rtol=rtol,
        min_products=min_products,
        max_products=max_products,
        basis=basis,
        generator=generator,
    )
    # rows of their own: the first solve's basis would stay beside that of the next one
    pairs = replace(pairs, vectors=pairs.vectors.clone())
    while k < operator.size and np.isfinite(pairs.values).all():
        left = max_products - pairs.products
        found = lanczos(
            _deflate(operator, pairs),
            rtol=_RTOL,
            min_products=_FEWEST,
            max_products=max(left, _FEWEST),
            basis=basis,
            generator=generator,
        )
        products = pairs.products + found.products
        # Ritz values lie below their eigenvalues: one that is as large was missed
        missed = float(found.values[0] - pairs.values[-1]) > float(pairs.residuals[-1])
        if not missed or not np.isfinite(found.values).all():
            pairs = replace(pairs, products=products)
            return _append_pair(pairs, found) if rest and not missed else pairs
        exact = lanczos(
            _deflate(operator, pairs),
            start=found.vectors[0],
            rtol=rtol,
            max_products=max(left - found.products, 1),
            basis=basis,
            generator=generator,
        )
        pairs = _insert_pair(pairs, exact, products + exact.products)
        if pairs.products >= max_products:  # nobody has looked whether another one was missed
            return replace(pairs, converged=False)
    return pairs


def _deflate(operator: SymmetricOperator, pairs: Eigenpairs) -> FunctionOperator:
    """`operator` with the eigenvalues of `pairs` moved below all of them."""
    low = pairs.values[-1] - max(pairs.values[0] - pairs.values[-1], abs(pairs.values[-1]))
    down = torch.from_numpy(pairs.values - low).to(operator.device)

    def product(v: Tensor) -> Tensor:
        parts = operator.inner(pairs.vectors, v) * down
        return operator.matvec(v) - pairs.vectors.T @ parts.to(v.dtype)

    return with_product(operator, product)


def _append_pair(pairs: Eigenpairs, found: Eigenpairs) -> Eigenpairs:
    """`pairs`, and the first of `found` behind them."""
    return replace(
        pairs,
        values=np.append(pairs.values, found.values[0]),
        vectors=torch.cat([pairs.vectors, found.vectors[:1]]),
        residuals=np.append(pairs.residuals, found.residuals[0]),
        errors=np.append(pairs.errors, found.residuals[0]),
    )


def _insert_pair(pairs: Eigenpairs, found: Eigenpairs, products: int) -> Eigenpairs:
    """`pairs` with the first of `found` in its place, and without the last."""
    values = np.append(pairs.values, found.values[0])
    order = np.argsort(-values, kind="stable")[: len(pairs.values)]
    vectors = torch.cat([pairs.vectors, found.vectors[:1]])
    return Eigenpairs(
        values=values[order],
        vectors=vectors[torch.from_numpy(order).to(vectors.device)],
        residuals=np.append(pairs.residuals, found.residuals[0])[order],
        errors=np.append(pairs.errors, found.residuals[0])[order],
        asymmetry=max(pairs.asymmetry, found.asymmetry),
        converged=pairs.converged and found.converged,
        rounded=pairs.rounded or found.rounded,
        products=products,
    )
