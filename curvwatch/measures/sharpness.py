"""The largest Hessian eigenvalue against the optimizer's edge of stability."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from curvwatch.measures.base import Landscape, LandscapeMeasure, Reading
from curvwatch.measures.matrices import (
    COARSEST,
    PRODUCTS_NOT_FINITE,
    Tracking,
    asymmetry_doubt,
    check_solver,
    convergence_doubt,
    difference_doubt,
    expand_per_parameter,
    finite_or_note,
    leading_pairs,
    preconditioned,
    relative,
)
from curvwatch.measures.rounding import Amplification, amplification
from curvwatch.objective.linearization import Linearization
from curvwatch.operators import Scaled, SymmetricOperator, hessian
from curvwatch.solvers import Eigenpairs

Transform = Callable[[SymmetricOperator], SymmetricOperator]

# vectors are far fewer where weights are so many: they are what memory goes into
_MANY_WEIGHTS = 10_000_000
_BASIS, _BASIS_OF_MANY = 24, 8
# up to so many weights a product costs little but its overhead: there is no reason to save any
_FEW_WEIGHTS = 10_000
_RTOL_OF_FEW = 1e-3
# with fewer products eigenvalues that cross were seen to be missed
_TRACKING = Tracking(random_part=0.05, turned=True, cold_rtol=1e-5)
# how many Ritz vectors a warm start mixes, by the third power of their values over the largest and
# at least so much: eigenvalues cross, and their vectors are at hand
_NEIGHBOURS = 4
_LEAST_PART = 0.05


class Sharpness(LandscapeMeasure):
    """Sharpness, its product with the learning rate, and the distance to the edge of stability.

    | metric | value |
    |---|---|
    | `curvature/loss` | f(w) on the probe |
    | `curvature/sharpness` | largest (algebraic) eigenvalue of the Hessian H of f |
    | `curvature/sharpness_x_lr` | lr x sharpness; largest eigenvalue of D^1/2 H D^1/2 for groups |
    | `curvature/edge` | 2 / lr, lr the largest of the groups |
    | `curvature/effective_sharpness` | largest eigenvalue of P^-1 H, P the preconditioner |
    | `curvature/effective_edge` | this optimizer's edge for it, see `curvwatch.stability` |
    | `curvature/stability_ratio` | effective sharpness / effective edge; 1 is the edge |
    | `curvature/residual` | abs(A v - value v) / abs(value), v the unit eigenvector: the largest of \
the reading's eigenpairs, so a bound of the relative error of each |
    | `curvature/sharpness_stderr` | standard error of v'Hv from its spread over the batches of the \
probe; where the probe has several |

    Price: one gradient and, while tracking, some 5 or 6 Hessian-vector products; as many products
    again, or more, for an optimizer with a preconditioner, and two where P is tiny for some weights
    (six in a reading that finds others than the last). For up to 10,000 weights more, and finer
    values.

    Args:
        rtol: relative residual at which the solver stops; for up to 10,000 weights 1e-3 at most. An
            eigenvalue lies within it of the value read; as a rule the error is about its square over
            the relative gap, some 1e-4. From 0.02 on eigenvalues that cross were seen to be missed.
        max_products: the most Hessian-vector products of one solve.
        every_n_steps: cadence of this measure alone; None: the monitor's.

    A weight that the loss does not depend on, such as a bias before BatchNorm, has a gradient and
    products of rounding alone, which P^-1 amplifies. Two products that differ by rounding alone reveal
    such weights, and they take no part in the effective sharpness. Where P is nowhere so small that
    rounding could matter, nothing is looked for. Where rounding may be a part of the value it is
    doubtful.

    Sources: Cohen et al. 2021 (sharpness, 2/lr); Cohen et al. 2022 (preconditioned sharpness).
    """

    name: str = "sharpness"
    metrics: tuple[str, ...] = (
        "curvature/loss",
        "curvature/sharpness",
        "curvature/sharpness_x_lr",
        "curvature/edge",
        "curvature/effective_sharpness",
        "curvature/effective_edge",
        "curvature/stability_ratio",
        "curvature/residual",
    )
    sampling_metrics: ClassVar[tuple[str, ...]] = ("curvature/sharpness_stderr",)

    def __init__(
        self, *, rtol: float = 0.01, max_products: int = 100, every_n_steps: int | None = None
    ) -> None:
        super().__init__(every_n_steps=every_n_steps)
        check_solver(rtol=rtol, max_products=max_products)
        self.rtol = rtol
        self.max_products = max_products

    def read(self, at: Landscape) -> Reading:
        """Read the largest eigenvalues; nan with a note where one is not available."""
        several = at.objective.batches > 1
        metrics = self.metrics + (self.sampling_metrics if several else ())
        values = dict.fromkeys(metrics, math.nan)
        fastest = max(at.learning_rates)
        if fastest > 0:  # at the first step of a warmup there is no edge
            values["curvature/edge"] = 2.0 / fastest
        if at.law.edge is not None:
            values["curvature/effective_edge"] = at.law.edge
        point = at.objective.linearize()
        values["curvature/loss"] = point.loss
        if (note := finite_or_note(point)) is not None:
            return Reading(values, (note,), broken=("curvature/loss",))

        solves = _Solves(self, at, point)
        plain = solves.largest(lambda H: H, "plain", "curvature/sharpness")
        sharpness = values["curvature/sharpness"] = float(plain.values[0])
        if not math.isfinite(sharpness):
            # loss and gradient are finite: no matter for an alert
            return Reading(values, (PRODUCTS_NOT_FINITE,))
        if several:
            values["curvature/sharpness_stderr"] = point.quotient_stderr(plain.vectors[0])
            solves.inherit_doubt("curvature/sharpness_stderr", "curvature/sharpness")

        notes = []
        if any(math.isnan(rate) for rate in at.learning_rates):
            notes.append(f"{at.law.optimizer} has no learning rate to read")
        elif min(at.learning_rates) == fastest:
            values["curvature/sharpness_x_lr"] = fastest * sharpness
            solves.inherit_doubt("curvature/sharpness_x_lr", "curvature/sharpness")
        else:
            scale = expand_per_parameter(at.objective.layout, at.learning_rates).sqrt()
            scaled = solves.largest(lambda H: Scaled(H, scale), "scaled", "curvature/sharpness_x_lr")
            values["curvature/sharpness_x_lr"] = float(scaled.values[0])

        effective = "curvature/effective_sharpness"
        if at.law.edge is None:
            notes.append(at.law.reason or f"{at.law.optimizer} has no law of stability")
        else:
            if at.law.is_identity:
                values[effective] = sharpness
                solves.inherit_doubt(effective, "curvature/sharpness")
            else:
                rounding = amplification(at, point, "null")
                transform = partial(
                    preconditioned, law=at.law, layout=at.objective.layout, null=rounding.null
                )
                pairs = solves.largest(transform, "effective", effective, rounding=rounding)
                values[effective] = float(pairs.values[0])
            values["curvature/stability_ratio"] = values[effective] / at.law.edge
            solves.inherit_doubt("curvature/stability_ratio", effective)
        if at.law.note is not None:
            notes.append(at.law.note)
        values["curvature/residual"] = solves.residual
        return Reading(values, tuple(notes), tuple(solves.doubtful), tuple(solves.doubts))


class _Solves:
    """The eigenvalue problems of one reading, and which of its values are doubtful."""

    def __init__(self, measure: Sharpness, at: Landscape, point: Linearization) -> None:
        self._measure = measure
        self._at = at
        self._point = point
        self.residual = 0.0
        self.doubtful: list[str] = []
        self.doubts: list[str] = []

    def largest(
        self,
        transform: Transform,
        key: str,
        metric: str,
        *,
        rounding: Amplification | None = None,
    ) -> Eigenpairs:
        """The leading pairs of the transformed Hessian, from the vectors kept in memory as `key`.

        Args:
            transform: of the Hessian.
            key: in memory.
            metric: the name of the largest eigenvalue.
            rounding: what the transform makes of the rounding of products.
        """
        operator = transform(hessian(self._point))
        size, rtol = operator.size, self._measure.rtol
        pairs = leading_pairs(
            self._at,
            operator,
            key,
            further=min(_NEIGHBOURS, size) - 1,
            rtol=min(rtol, _RTOL_OF_FEW) if size <= _FEW_WEIGHTS else rtol,
            max_products=self._measure.max_products,
            basis=_BASIS_OF_MANY if size > _MANY_WEIGHTS else _BASIS,
            gradient=lambda: self._gradient(operator),
            tracking=_TRACKING,
            start_of=_mix_neighbours,
        )
        value, residual = float(pairs.values[0]), float(pairs.residuals[0])
        error = self._error_of_differences(transform, pairs)
        off = max(relative(residual, value), error)
        self.residual = max(self.residual, off)
        doubt = (
            (rounding.doubt(metric, value) if rounding else None)
            or difference_doubt(metric, error)
            or asymmetry_doubt(metric, pairs)
        )
        if not doubt and pairs.rounded and off > max(rtol, COARSEST):
            doubt = (
                f"{metric} is dominated by rounding: {value:.3g} +- {residual:.2g}, as the other end "
                "of the spectrum is much larger; precision='64-true' would resolve it"
            )
        doubt = doubt or convergence_doubt(metric, pairs, "Sharpness")
        if doubt:
            self.doubtful.append(metric)
            self.doubts.append(doubt)
        return pairs

    def inherit_doubt(self, metric: str, source: str) -> None:
        """Mark `metric` as doubtful where `source` is, which it is computed from."""
        if source in self.doubtful:
            self.doubtful.append(metric)

    def _gradient(self, operator: SymmetricOperator) -> Tensor:
        """The gradient in the coordinates of `operator`."""
        gradient = self._point.gradient
        return operator.scale * gradient if isinstance(operator, Scaled) else gradient

    def _error_of_differences(self, transform: Transform, pairs: Eigenpairs) -> float:
        """By how much the leading value differs at twice the distance; 0 where products are exact."""
        coarser, value = self._point.coarser, float(pairs.values[0])
        if coarser is None or not math.isfinite(value):
            return 0.0
        operator, v = transform(hessian(self._point, product=coarser)), pairs.vectors[0]
        return relative(abs(float(operator.inner(v[None], operator.matvec(v))[0]) - value), value)


def _mix_neighbours(pairs: Eigenpairs, k: int) -> Tensor:
    """The leading Ritz vectors in one, shape (length,), by how close their values are to the first."""
    with np.errstate(divide="ignore", invalid="ignore"):
        closeness = np.nan_to_num(pairs.values / pairs.values[0], posinf=0.0, neginf=0.0).clip(0.0, 1.0)
    parts = np.maximum(closeness**3, _LEAST_PART)
    parts[0] = 1.0
    weights = torch.tensor(parts, dtype=pairs.vectors.dtype, device=pairs.vectors.device)
    return weights @ pairs.vectors
