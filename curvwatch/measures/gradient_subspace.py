"""How much of gradient and update lies in the top eigenspace of the Hessian, and how it turns."""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from curvwatch.checks import check_int
from curvwatch.errors import CurvwatchError
from curvwatch.measures.base import Landscape, LandscapeMeasure, Reading
from curvwatch.measures.matrices import (
    PRODUCTS_NOT_FINITE,
    Tracking,
    check_solver,
    finite_or_note,
    leading_pairs,
    vector_norm,
)
from curvwatch.objective.flat_layout import Layout
from curvwatch.operators import hessian
from curvwatch.solvers import Eigenpairs

# from so many entries on vectors of earlier readings are kept as sketches of this length
_SKETCH = 1 << 20
_AT_A_TIME = 1 << 22
# more outputs than this are no classes: of a vocabulary nobody wants all directions
_MOST_CLASSES = 100
# equal eigenvalues are looked for anyway, so no solve needs more products or a finer residual at first
_TRACKING = Tracking(random_part=0.05, products=1, cold_products=1, cold_rtol=math.inf)


class GradientSubspace(LandscapeMeasure):
    """The space V of the k leading eigenvectors of the Hessian, and what lies in it.

    | metric | value |
    |---|---|
    | `curvature/subspace_gradient_share` | abs(V g)^2 / abs(g)^2, g the gradient on the probe |
    | `curvature/subspace_update_share` | the same of the step d from here |
    | `curvature/subspace_overlap_last` | abs(V V_last')^2 / k (Frobenius), V_last that of `lag` \
readings ago: 1 where the space stood still, k / number of weights for random ones |
    | `curvature/subspace_overlap_first` | the same with that of the first reading |
    | `curvature/leading_rotation` | angle between the leading eigenvector and that of `lag` readings \
ago, in degrees, 0 to 90 |
    | `curvature/subspace_error` | bound of the sine of the largest angle between V and the true \
space: its residual / the gap to the next eigenvalue (Davis & Kahan 1970), 1 at most |

    Gradient and update share are off by `subspace_error` at most. Where the k-th eigenvalue is close to
    the next, the space itself is not well defined, and the error near 1 says so. Eigenvalues that are
    equal, such as those of a linear regression with several outputs, come as often as they are there.

    Price: one gradient, some 2 k Hessian-vector products and 8 to 20 to see that none was missed,
    several times that early in a run; in memory 3 k + 5 vectors of the size of the weights during a
    reading. Between readings k x (1 + `lag`) vectors are kept, and are part of checkpoints; those
    of over a million weights as random sketches of 2^20 entries (4 MiB each), which leave inner
    products of unit vectors as they are to within .001 (standard deviation), and one whole vector
    to start from. Of weights that are spread over processes each keeps its own part, whole.

    Args:
        k: dimension of the space; "classes": the outputs of the last nn.Linear, where they are no more
            than 100.
        lag: how many readings ago the space is that is compared with.
        rtol: relative residual of each eigenpair at which the solver stops.
        max_products: the most products of one solve.
        every_n_steps: cadence of this measure alone; None: the monitor's.

    Sources: Gur-Ari et al. 2018, "Gradient descent happens in a tiny subspace" (share of the gradient,
    overlap); Charikar et al. 2002 (the sketch).
    """

    name: str = "gradient_subspace"
    expensive: ClassVar[bool] = True
    metrics: tuple[str, ...] = (
        "curvature/subspace_gradient_share",
        "curvature/subspace_update_share",
        "curvature/subspace_overlap_last",
        "curvature/subspace_overlap_first",
        "curvature/leading_rotation",
        "curvature/subspace_error",
    )

    def __init__(
        self,
        *,
        k: int | Literal["classes"] = "classes",
        lag: int = 1,
        rtol: float = 1e-3,
        max_products: int = 300,
        every_n_steps: int | None = None,
    ) -> None:
        super().__init__(every_n_steps=every_n_steps)
        if k != "classes":
            check_int("k", k, at_least=1, what="a positive number or 'classes'")
        check_int("lag", lag, at_least=1, what="a positive number of readings")
        check_solver(rtol=rtol, max_products=max_products)
        self.k = k
        self.lag = lag
        self.rtol = rtol
        self.max_products = max_products

    def read(self, at: Landscape) -> Reading:
        """Read the space; nan with a note where a value is not available yet.

        Raises:
            CurvwatchError: `k` is more than there are weights, or the classes cannot be counted.
        """
        values = dict.fromkeys(self.metrics, math.nan)
        k = self._dimension(at)
        point = at.objective.linearize()
        g = point.gradient
        if (note := finite_or_note(point)) is not None:
            return Reading(values, (note,))
        H, layout = hessian(point), at.objective.layout
        pairs = leading_pairs(
            at,
            H,
            "start",
            k=k,
            rest=True,
            rtol=self.rtol,
            max_products=max(self.max_products, k + 1),
            basis=2 * k + 4,
            gradient=lambda: g,
            tracking=_TRACKING,
        )
        if not np.isfinite(pairs.values).all():
            return Reading(values, (PRODUCTS_NOT_FINITE,))
        V = pairs.vectors[:k]
        notes = []
        values["curvature/subspace_error"] = _error(pairs, k, H.size)
        values["curvature/subspace_gradient_share"] = _share(layout, V, g)
        if at.update is None:
            notes.append("the step from these weights is unknown")
        else:
            d = at.update()
            values["curvature/subspace_update_share"] = _share(layout, V, d)
            if not bool(d.any()):
                notes.append("the step did not move the weights")
        self._compare(layout, V, at.memory, values, notes)
        return self._make_reading(values, tuple(notes), pairs)

    def _dimension(self, at: Landscape) -> int:
        size = at.objective.layout.total
        k = _classes(at.objective.module) if self.k == "classes" else int(self.k)
        if k > size:
            raise CurvwatchError(f"GradientSubspace(k={k}), but there are {size} weights: give fewer")
        return k

    def _compare(
        self,
        layout: Layout,
        V: Tensor,
        memory: MutableMapping[str, Any],
        values: dict[str, float],
        notes: list[str],
    ) -> None:
        """Fill in the overlaps with spaces of earlier readings, and keep this one."""
        space = _sketch(V) if layout.size > _SKETCH and not layout.sharded else V.clone()
        first, earlier = memory.get("first"), memory.get("spaces")  # (k, n), (up to lag, k, n)
        if first is None or earlier is None or first.shape != space.shape:
            memory["first"], earlier = space, space[None][:0]
        else:
            values["curvature/subspace_overlap_first"] = _overlap(layout, space, first)
        if len(earlier) < self.lag:
            notes.append("there is no earlier space to compare with yet")
        else:
            last = earlier[0]
            values["curvature/subspace_overlap_last"] = _overlap(layout, space, last)
            cosine = abs(float(_inner(layout, last[:1], space[0])[0]))
            values["curvature/leading_rotation"] = math.degrees(math.acos(min(1.0, cosine)))
        memory["spaces"] = torch.cat([earlier.to(space.device), space[None]])[-self.lag :].clone()

    def _make_reading(
        self, values: dict[str, float], notes: tuple[str, ...], pairs: Eigenpairs
    ) -> Reading:
        if pairs.converged:
            return Reading(values, notes)
        doubt = (
            f"the eigenspace did not converge in {pairs.products} products; "
            "GradientSubspace(max_products=...) allows more, a smaller k needs fewer"
        )
        return Reading(values, notes, doubtful=self.metrics, doubts=(doubt,))


def _classes(module: nn.Module) -> int:
    """The outputs of the last linear layer of `module`, in the order in which they were made."""
    outputs = [int(m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]
    if not outputs:
        raise CurvwatchError(
            "GradientSubspace(k='classes') counts the outputs of the last nn.Linear, and "
            f"{type(module).__name__} has none: give a number, k=10"
        )
    if outputs[-1] > _MOST_CLASSES:
        raise CurvwatchError(
            f"GradientSubspace(k='classes') would keep {outputs[-1]} vectors of the size of the "
            "weights, one for each output of the last nn.Linear: give a number, k=10"
        )
    return outputs[-1]


def _share(layout: Layout, V: Tensor, v: Tensor) -> float:
    """Share of the square of `v` in the span of the orthonormal rows of `V`; nan where `v` is zero."""
    whole = layout.dot(v, v)
    if math.isinf(whole):  # of a finite float64 vector, perhaps
        v = v / vector_norm(layout, v)
        whole = layout.dot(v, v)
    return float(layout.inner(V, v).square().sum()) / whole if whole else math.nan


def _error(pairs: Eigenpairs, k: int, size: int) -> float:
    if k == size:
        return 0.0
    if len(pairs.values) == k:
        return 1.0
    # the next one lies within its own residual
    gap = float(pairs.values[k - 1] - pairs.values[k] - pairs.residuals[k])
    residual = float(np.sqrt(np.square(pairs.residuals[:k]).sum()))
    return min(1.0, residual / gap) if gap > 0 else 1.0


def _inner(layout: Layout, rows: Tensor, v: Tensor) -> Tensor:
    """Inner products of kept rows, whole or as sketches."""
    rows = rows.to(v.device, v.dtype)
    if v.shape == (layout.size,):
        return layout.inner(rows, v)
    return torch.mv(rows, v).double()


def _overlap(layout: Layout, V: Tensor, other: Tensor) -> float:
    total = sum(float(_inner(layout, other, v).square().sum()) for v in V)
    return min(1.0, total / len(V))


def _sketch(V: Tensor) -> Tensor:
    """Rows (k, n) as sketches (k, 2^20): each entry, with a random sign, added to a random place.

    The same places and signs in each reading, so inner products stay what they are, but for noise.
    """
    generator = torch.Generator().manual_seed(0)
    sketch = torch.zeros(len(V), _SKETCH, dtype=V.dtype, device=V.device)
    for part in V.split(_AT_A_TIME, dim=1):
        n = part.shape[1]
        places = torch.randint(_SKETCH, (n,), generator=generator).to(V.device)
        signs = torch.empty(n, dtype=V.dtype).bernoulli_(generator=generator).mul_(2).sub_(1)
        sketch.index_add_(1, places, part * signs.to(V.device))
    return sketch
