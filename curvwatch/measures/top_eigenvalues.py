"""The largest eigenvalues of the Hessian, and where in the network the leading eigenvector lives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from curvwatch.checks import check_int
from curvwatch.measures.base import Landscape, LandscapeMeasure, Reading
from curvwatch.measures.matrices import (
    PRODUCTS_NOT_FINITE,
    check_solver,
    finite_or_note,
    leading_pairs,
    relative_residual,
    solver_doubt,
)
from curvwatch.objective.layers import By, check_by, layers_of, parameter_names
from curvwatch.operators import Block, hessian


class TopEigenvalues(LandscapeMeasure):
    """The k algebraically largest eigenvalues of the Hessian H on the probe, and the first's vector v.

    | metric | value |
    |---|---|
    | `curvature/eigenvalue/0`, `/1`, ... | the eigenvalues, the largest first |
    | `curvature/eigenvalue_residual` | the largest abs(H v - value v) / abs(value) of the k pairs |
    | `curvature/eigenvalue_gap` | eigenvalue 0 - eigenvalue 1 |
    | `curvature/participation_ratio` | sum of v_i^4 for unit v, the inverse participation ratio: \
1 where v is one weight's axis, 1 / n where it is spread over n weights alike, some 3 / n where random |
    | `curvature/eigenvector_error` | bound of the sine of the angle of v to the true one: residual / \
gap (Davis & Kahan 1970), 1 at most |
    | `curvature/layer/<name>/eigenvector_share` | sum of v_i^2 over the weights of the layer; all \
together 1, but for layers that are left out |

    Where the two largest are close, v is any vector of their plane: ratio and shares then say little,
    and `eigenvector_error` near 1 indicates it. Equal eigenvalues come with their multiplicity.

    Price: one gradient, some 2 k products and 8 to 20 to see that none was missed, several times that
    in the first reading; in memory
    3 k + 5 vectors, k + 17 at least, of the size of the weights during a reading, one between.

    Args:
        k: how many, at least 2; of a network with fewer weights the rest is nan.
        by: what a layer is: "module", "parameter", or a function from a parameter's name to its
            layer's name (None leaves it out).
        rtol: relative residual of each pair at which the solver stops.
        max_products: the most products of the solve.
        every_n_steps: cadence of this measure alone; None: the monitor's.

    Sources: Sagun et al. 2017, arXiv:1706.04454 (leading eigenvalues); Bell & Dean 1970 (participation
    ratio).
    """

    name: str = "top_eigenvalues"
    expensive: ClassVar[bool] = True
    metrics: tuple[str, ...] = (
        "curvature/eigenvalue_residual",
        "curvature/eigenvalue_gap",
        "curvature/participation_ratio",
        "curvature/eigenvector_error",
    )

    def __init__(
        self,
        k: int = 5,
        *,
        by: By = "module",
        rtol: float = 0.01,
        max_products: int = 200,
        every_n_steps: int | None = None,
    ) -> None:
        super().__init__(every_n_steps=every_n_steps)
        check_int("k", k, at_least=2, what="a number of eigenvalues, 2 or more,")
        check_by(by)
        check_solver(rtol=rtol, max_products=max_products)
        self.k = k
        self.by = by
        self.rtol = rtol
        self.max_products = max_products
        self._eigenvalues = tuple(f"curvature/eigenvalue/{i}" for i in range(k))
        self.metrics = self._eigenvalues + type(self).metrics

    def metrics_of(self, module: nn.Module, params: Sequence[Tensor]) -> tuple[str, ...]:
        """Those of all, and the share of each layer."""
        return self.metrics + _shares(layers_of(parameter_names(module, params), self.by))

    def read(self, at: Landscape) -> Reading:
        """Read the eigenvalues; nan with a note where products are not finite."""
        layers = layers_of(at.objective.names, self.by)
        values = dict.fromkeys(self.metrics + _shares(layers), math.nan)
        point = at.objective.linearize()
        if (note := finite_or_note(point)) is not None:
            return Reading(values, (note,))
        H, layout = hessian(point), at.objective.layout
        k = min(self.k, H.size)
        pairs = leading_pairs(at, H, "vector", k=k, rtol=self.rtol, max_products=self.max_products)
        if not all(map(math.isfinite, pairs.values)):
            return Reading(values, (PRODUCTS_NOT_FINITE,))
        values.update(zip(self._eigenvalues, map(float, pairs.values), strict=False))
        values["curvature/eigenvalue_residual"] = relative_residual(pairs)
        v = pairs.vectors[0]
        values["curvature/participation_ratio"] = layout.dot(v * v, v * v)
        for name, indices in layers.items():
            block = Block(H, layout, indices)
            part = block.cut(v)
            values[f"curvature/layer/{name}/eigenvector_share"] = block.layout.dot(part, part)
        if k > 1:
            gap = float(pairs.values[0] - pairs.values[1])
            values["curvature/eigenvalue_gap"] = gap
            # the second lies within its own residual
            least_gap = gap - float(pairs.residuals[1])
            error = float(pairs.residuals[0]) / least_gap if least_gap > 0 else 1.0
            values["curvature/eigenvector_error"] = min(1.0, error)
        notes = () if k == self.k else (f"there are {H.size} weights, so no more eigenvalues",)
        doubt = solver_doubt("curvature/eigenvalue/0", pairs, type(self).__name__)
        if doubt:
            return Reading(values, notes, doubtful=tuple(values), doubts=(doubt,))
        return Reading(values, notes)


def _shares(layers: dict[str, list[int]]) -> tuple[str, ...]:
    return tuple(f"curvature/layer/{name}/eigenvector_share" for name in layers)
