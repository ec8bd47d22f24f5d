"""Eigenvectors of the Hessian as directions."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from curvwatch.checks import check_choice
from curvwatch.errors import CurvwatchError
from curvwatch.landscape.slices.directions import Directions, check_directions, held_fixed
from curvwatch.landscape.surface import CountCosts, Surface, checked
from curvwatch.operators.base import SymmetricOperator
from curvwatch.solvers import lanczos

Ends = Literal["largest", "smallest", "both"]

# so few weights that Lanczos may keep as many vectors, and ends with all that there is to know
_FEW = 100
_TIGHT, _USUAL, _BASIS = 1e-9, 1e-3, 24


def eigenvectors(
    surface: Surface,
    count: int = 2,
    *,
    at: Tensor | None = None,
    ends: Ends = "largest",
    rtol: float | None = None,
    max_products: int = 200,
    seed: int = 0,
) -> Directions:
    """Unit eigenvectors of the Hessian, with their eigenvalues and residuals.

    Args:
        surface: the loss; it must not be open.
        count: 1 or 2.
        at: (size,) where the Hessian is taken; None: at the start.
        ends: "largest" or "smallest" (most negative) eigenvalues, algebraically; "both": the largest
            and the smallest one, with count=2.
        rtol: residual relative to the eigenvalue that Lanczos stops at; None: 1e-9 for up to 100
            weights, of which at most as many products are needed, else 1e-3. An eigenvector is off by
            about the residual over the gap to the next eigenvalue.
        max_products: the most Hessian-vector products of each solve; the notes name
            those that did not converge by then.
        seed: of the generator of the start vector.

    Raises:
        ValueError: an argument is out of range.
        CurvwatchError: the Hessian is not finite, or has too few rows.
    """
    check_directions(count)
    check_choice("ends", ends, ("largest", "smallest", "both"))
    if ends == "both" and count != 2:
        raise ValueError("ends='both' are two directions: count=2 is needed")
    if surface.size < count:
        raise CurvwatchError(f"{surface.size} weights have no {count} eigenvectors")
    if rtol is not None and not 0.0 < rtol < 1.0:
        raise ValueError(f"rtol={rtol!r}: a number between 0 and 1, or None, is needed")
    few = surface.size <= _FEW
    if rtol is None:
        rtol = _TIGHT if few else _USUAL
    generator = torch.Generator().manual_seed(seed)
    origin = surface.start if at is None else checked(surface, at)
    with CountCosts(surface) as spending, surface.hessian(at) as H:
        solves = [(True, 1), (False, 1)] if ends == "both" else [(ends == "largest", count)]
        found, doubts = [], []
        for largest, k in solves:
            pairs = lanczos(
                H,
                k=k,
                largest=largest,
                rtol=rtol,
                max_products=max_products,
                basis=surface.size if few else _BASIS,
                generator=generator,
            )
            if not np.isfinite(pairs.values).all() or len(pairs.values) < k:
                raise CurvwatchError("the Hessian is not finite there, so it has no eigenvectors")
            found.append(pairs.vectors.double())
            if not pairs.converged:
                doubts.append(f"Lanczos did not converge in {pairs.products} products")
        V = torch.cat(found)
        if count == 2:  # of two solves they are orthogonal up to their residuals
            V[1] -= (V[1] @ V[0]) * V[0]
        V = (V / V.norm(dim=1, keepdim=True)).to(surface.dtype)
        values, residuals = _rayleigh(H, V)
    which = "largest and smallest" if ends == "both" else ends
    return Directions(
        vectors=V,
        names=tuple(
            f"Hessian eigenvector {i + 1}, λ = {value:.3g} ± {residual:.1g}"
            for i, (value, residual) in enumerate(zip(values, residuals, strict=True))
        ),
        origin=origin,
        description=f"Hessian eigenvector{'s' * (count == 2)}, {which}",
        notes=tuple(doubts) + held_fixed(surface, "Hessian"),
        values=values,
        residuals=residuals,
        cost=spending.cost,
    )


def _rayleigh(H: SymmetricOperator, V: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Quotients v'Hv and |Hv - v'Hv v| of each row."""
    values, residuals = [], []
    for v in V:
        Hv = H.matvec(v).double()
        value = float(Hv @ v.double())
        values.append(value)
        residuals.append(float((Hv - value * v.double()).norm()))
    return np.array(values), np.array(residuals)
