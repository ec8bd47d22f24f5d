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
from curvwatch.measures.matrices import Amplification, amplification, expanded, preconditioned
from curvwatch.objective.linearization import Linearization
from curvwatch.operators import Scaled, SymmetricOperator, hessian, unit
from curvwatch.solvers import Eigenpairs, lanczos

# the first reading has no earlier vectors to lean on: before close eigenvalues part, a smaller one
# may look converged while the largest has not shown yet
_COLD_RTOL = 1e-5
_COLD_PRODUCTS = 8
# later ones do; fewer products were seen to miss eigenvalues that cross
_WARM_PRODUCTS = 4
# up to so many weights a product costs little but its overhead: there is no reason to save any
_FEW_WEIGHTS = 10_000
_RTOL_OF_FEW = 1e-3
# from so many on vectors are what memory goes into
_MANY_WEIGHTS = 10_000_000
_BASIS, _BASIS_OF_MANY = 24, 8
# a value that rounding leaves with a larger relative residual is none
_COARSEST = 1e-2
# rounding in bfloat16 stays under this; a wrong second derivative was seen at 30 %
_ASYMMETRIC = 0.05
# parts of a warm start, relative to the last leading vectors: random, so that an eigenvector that
# rises from below is found; the gradient, which lies among the leading eigenvectors (Gur-Ari 2018)
_RANDOM_PART = 0.05
_GRADIENT_PART = 0.1
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
    products of rounding alone, which P^-1 amplifies. Two products that differ by rounding alone tell
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
        if isinstance(rtol, str) or not 0 < rtol < 1:
            raise ValueError(f"rtol={rtol!r}: a relative error between 0 and 1 is needed")
        if isinstance(max_products, bool) or not isinstance(max_products, int) or max_products < 1:
            raise ValueError(f"max_products={max_products!r}: at least one product is needed")
        self.rtol = rtol
        self.max_products = max_products

    def read(self, at: Landscape) -> Reading:
        """Read the largest eigenvalues; nan with a note where one cannot be had."""
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
        if not (math.isfinite(point.loss) and bool(torch.isfinite(point.gradient).all())):
            note = f"on the probe the loss is {point.loss} or its gradient is not finite"
            return Reading(values, (note,), broken=("curvature/loss",))

        solves = _Solves(self, at, point)
        plain = solves.largest(_itself, "plain", "curvature/sharpness")
        sharpness = values["curvature/sharpness"] = float(plain.values[0])
        if not math.isfinite(sharpness):
            # loss and gradient are finite: no matter for an alert
            return Reading(values, ("Hessian-vector products on the probe are not finite",))
        if several:
            values["curvature/sharpness_stderr"] = point.quotient_stderr(plain.vectors[0])
            solves.follows("curvature/sharpness_stderr", "curvature/sharpness")

        notes = []
        if any(math.isnan(rate) for rate in at.learning_rates):
            notes.append(f"{at.law.optimizer} tells no learning rate")
        elif min(at.learning_rates) == fastest:
            values["curvature/sharpness_x_lr"] = fastest * sharpness
            solves.follows("curvature/sharpness_x_lr", "curvature/sharpness")
        else:
            scale = expanded(at.objective.layout, at.learning_rates).sqrt()
            scaled = solves.largest(lambda H: Scaled(H, scale), "scaled", "curvature/sharpness_x_lr")
            values["curvature/sharpness_x_lr"] = float(scaled.values[0])

        effective = "curvature/effective_sharpness"
        if at.law.edge is None:
            notes.append(at.law.reason or f"{at.law.optimizer} has no law of stability")
        else:
            if at.law.is_identity:
                values[effective] = sharpness
                solves.follows(effective, "curvature/sharpness")
            else:
                rounding = amplification(at, point, "null")
                seen = partial(
                    preconditioned, law=at.law, layout=at.objective.layout, null=rounding.null
                )
                pairs = solves.largest(seen, "effective", effective, rounding=rounding)
                values[effective] = float(pairs.values[0])
            values["curvature/stability_ratio"] = values[effective] / at.law.edge
            solves.follows("curvature/stability_ratio", effective)
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
        seen: Callable[[SymmetricOperator], SymmetricOperator],
        which: str,
        metric: str,
        *,
        rounding: Amplification | None = None,
    ) -> Eigenpairs:
        """The leading pair of the Hessian as `seen`, from the vectors kept in memory as `which`."""
        operator = seen(hessian(self._point))
        memory, generator = self._at.memory, self._at.generator
        start = self._warm_start(operator, memory.get(which))
        cold, size = start is None, operator.size
        rtol = min(self._measure.rtol, _RTOL_OF_FEW) if size <= _FEW_WEIGHTS else self._measure.rtol
        pairs = lanczos(
            operator,
            also=min(_NEIGHBOURS, size) - 1,
            start=start,
            rtol=min(rtol, _COLD_RTOL) if cold else rtol,
            min_products=_COLD_PRODUCTS if cold else _WARM_PRODUCTS,
            max_products=self._measure.max_products,
            basis=_BASIS_OF_MANY if size > _MANY_WEIGHTS else _BASIS,
            generator=generator,
        )
        if math.isfinite(pairs.values[0]):
            memory[which] = _mixed(pairs)
        relative = _relative(float(pairs.residuals[0]), float(pairs.values[0]))
        by_difference = self._error_of_differences(seen, pairs)
        relative = max(relative, by_difference)
        self.residual = max(self.residual, relative)
        amplified = rounding.doubt(metric, float(pairs.values[0])) if rounding else None
        if amplified:
            self.doubtful.append(metric)
            self.doubts.append(amplified)
        elif by_difference > _COARSEST:
            self.doubtful.append(metric)
            self.doubts.append(
                f"{metric} is not to be trusted: at twice the distance differences of gradients give "
                f"a value that is off by {by_difference:.1%}, for the gradient has kinks or is rounded"
            )
        elif pairs.asymmetry > _ASYMMETRIC:
            self.doubtful.append(metric)
            self.doubts.append(
                f"{metric} is not to be trusted: Hessian-vector products are not symmetric (off by "
                f"{pairs.asymmetry:.1%}), so an operation of the loss has a wrong second derivative or "
                "is rounded in half precision"
            )
        elif pairs.rounded and relative > max(self._measure.rtol, _COARSEST):
            self.doubtful.append(metric)
            self.doubts.append(
                f"{metric} drowns in rounding: {pairs.values[0]:.3g} +- {pairs.residuals[0]:.2g}, "
                "beside a much larger other end of the spectrum; precision='64-true' would tell"
            )
        elif not pairs.converged:
            self.doubtful.append(metric)
            self.doubts.append(
                f"{metric} did not converge in {pairs.products} products: {pairs.values[0]:.6g} with a "
                f"residual of {pairs.residuals[0]:.2g}; Sharpness(max_products=...) allows more"
            )
        return pairs

    def _warm_start(self, operator: SymmetricOperator, last: Tensor | None) -> Tensor | None:
        """The last leading vectors with parts of the gradient and of a random vector; None at first."""
        if last is None or last.shape != (operator.length,):
            return None
        last = unit(operator, last.to(operator.device, operator.dtype))
        noise = torch.randn(operator.length, generator=self._at.generator, dtype=operator.dtype)
        start = last + _RANDOM_PART * unit(operator, noise.to(operator.device))
        gradient = self._point.gradient
        if isinstance(operator, Scaled):
            gradient = operator.scale * gradient
        side = 1.0 if float(operator.inner(gradient[None], last)[0]) >= 0 else -1.0
        return start + side * _GRADIENT_PART * unit(operator, gradient)

    def _error_of_differences(
        self, seen: Callable[[SymmetricOperator], SymmetricOperator], pairs: Eigenpairs
    ) -> float:
        """By how much the leading value differs at twice the distance; 0 where products are exact."""
        coarser = self._point.coarser
        if coarser is None or not math.isfinite(pairs.values[0]):
            return 0.0
        operator, v = seen(hessian(self._point, product=coarser)), pairs.vectors[0]
        value = float(pairs.values[0])
        return _relative(abs(float(operator.inner(v[None], operator.matvec(v))[0]) - value), value)

    def follows(self, metric: str, source: str) -> None:
        """`metric` is computed from `source`, and is as good."""
        if source in self.doubtful:
            self.doubtful.append(metric)


def _mixed(pairs: Eigenpairs) -> Tensor:
    """The leading Ritz vectors in one, shape (length,): where the next solve starts."""
    with np.errstate(divide="ignore", invalid="ignore"):
        closeness = np.nan_to_num(pairs.values / pairs.values[0], posinf=0.0, neginf=0.0).clip(0.0, 1.0)
    parts = np.maximum(closeness**3, _LEAST_PART)
    parts[0] = 1.0
    weights = torch.tensor(parts, dtype=pairs.vectors.dtype, device=pairs.vectors.device)
    return weights @ pairs.vectors


def _itself(H: SymmetricOperator) -> SymmetricOperator:
    return H


def _relative(residual: float, value: float) -> float:
    return residual / abs(value) if value else (0.0 if residual == 0.0 else math.inf)
