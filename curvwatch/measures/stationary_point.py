"""What kind of point the weights are at: gradient against curvature, and the signs of the curvature."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch

from curvwatch.checks import check_fraction, check_int
from curvwatch.measures.base import Landscape, LandscapeMeasure, Reading
from curvwatch.measures.matrices import (
    PRODUCTS_NOT_FINITE,
    check_options,
    finite_or_note,
    leading_pairs,
    solver_doubt,
    vector_norm,
)
from curvwatch.operators import Scaled, hessian
from curvwatch.solvers import stochastic_lanczos

Kind = Literal["slope", "plateau", "saddle", "minimum"]
# the number that a kind is logged as
KINDS: tuple[Kind, ...] = ("slope", "plateau", "saddle", "minimum")


class StationaryPoint(LandscapeMeasure):
    """Whether the weights w are on a slope or a plateau, near a saddle or a minimum, on the probe.

    g is the gradient, H the Hessian, f the loss, and abs(H) the largest abs(eigenvalue) of H.

    | metric | value |
    |---|---|
    | `curvature/gradient_norm` | abs(g) |
    | `curvature/gradient_over_curvature` | abs(g) / (abs(H) abs(w)): how far the gradient's zero is, \
were all curvature that of the sharpest direction, relative to the weights; missing where H is zero |
    | `curvature/index_share` | share of the eigenvalues below -`negative` x abs(H), by their number: \
the index of a saddle, relative to the dimension |
    | `curvature/index_share_error` | standard error over the random vectors, joined with the \
difference to a quadrature of fewer steps |
    | `curvature/stationary_kind` | 0 slope, 1 plateau, 2 saddle, 3 minimum |

    The kind is the first of these that holds:

    - plateau: abs(g) abs(w) and abs(H) abs(w)^2 / 2 are both at most `flat` x abs(f): going as far as
      the weights are long changes the loss by a small share, to second order.
    - slope: `gradient_over_curvature` is over `steep`.
    - saddle: the smallest eigenvalue is under -`negative` x abs(H).
    - minimum: none of these; flat directions may be left.

    A note names the kind whenever it changes. Weights at a minimum of the probe's loss are as a
    rule not at one of the whole loss. The thresholds hold however loss or weights are scaled, but
    a constant that is added to the loss counts for a plateau.

    Price: one gradient, 4 to 10 products for each end of the spectrum, and `probes` x `steps`, 32 by
    default, for the index.

    Args:
        steep: of `gradient_over_curvature`, over which the gradient matters.
        flat: share of the loss under which a change of it is none.
        negative: share of abs(H) under which a negative eigenvalue is none: near 0 their signs
            are uncertain.
        probes: random vectors for the index, at least 2.
        steps: of Lanczos from each.
        rtol: residual at which the solvers stop, relative to the range of the spectrum.
        max_products: the most products of each solve.
        every_n_steps: cadence of this measure alone; None: the monitor's.

    Sources: Dauphin et al. 2014, "Identifying and attacking the saddle point problem in
    high-dimensional non-convex optimization" (index); Sankar et al. 2021, arXiv:2012.03801.
    """

    name: str = "stationary_point"
    expensive: ClassVar[bool] = True
    metrics: tuple[str, ...] = (
        "curvature/gradient_norm",
        "curvature/gradient_over_curvature",
        "curvature/index_share",
        "curvature/index_share_error",
        "curvature/stationary_kind",
    )
    sampling_metrics: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        *,
        steep: float = 1e-3,
        flat: float = 1e-3,
        negative: float = 0.05,
        probes: int = 2,
        steps: int = 16,
        rtol: float = 0.01,
        max_products: int = 100,
        every_n_steps: int | None = None,
    ) -> None:
        super().__init__(every_n_steps=every_n_steps)
        for key, share in (("steep", steep), ("flat", flat), ("negative", negative)):
            check_fraction(key, share, what="a share between 0 and 1")
        check_options(probes=probes, rtol=rtol, max_products=max_products)
        check_int("steps", steps, at_least=2, what="at least 2 products")
        self.steep = steep
        self.flat = flat
        self.negative = negative
        self.probes = probes
        self.steps = steps
        self.rtol = rtol
        self.max_products = max_products

    def read(self, at: Landscape) -> Reading:
        """Read the point; nan with a note where products are not finite."""
        values = dict.fromkeys(self.metrics, math.nan)
        point, layout = at.objective.linearize(), at.objective.layout
        if (note := finite_or_note(point)) is not None:
            return Reading(values, (note,))
        slope = vector_norm(layout, point.gradient)
        values["curvature/gradient_norm"] = slope
        H = hessian(point)
        top = leading_pairs(at, H, "highest", rtol=self.rtol, max_products=self.max_products)
        rule = stochastic_lanczos(H, self.probes, self.steps, generator=at.generator)
        if not rule.finite or not math.isfinite(top.values[0]):
            return Reading(values, (PRODUCTS_NOT_FINITE,))
        # of shift - H the smallest comes first, and a residual is relative to the range
        shift = max(float(top.values[0]), 0.0)
        ones = torch.ones(H.length, dtype=H.dtype, device=H.device)
        turned = Scaled(H, ones, shift=shift * ones, sign=-1.0)
        bottom = leading_pairs(at, turned, "lowest", rtol=self.rtol, max_products=self.max_products)
        lowest = shift - float(bottom.values[0])
        size = max(abs(float(top.values[0])), abs(lowest))
        weights = at.objective.weights
        length = math.sqrt(layout.dot(weights, weights))
        if size * length > 0:
            values["curvature/gradient_over_curvature"] = slope / (size * length)
        index = rule.share_below(-self.negative * size)
        values["curvature/index_share"], values["curvature/index_share_error"] = (
            index.value,
            index.error,
        )
        kind = self._kind(
            point.loss, slope * length, size * length**2 / 2, lowest < -self.negative * size
        )
        values["curvature/stationary_kind"] = float(KINDS.index(kind))
        notes = () if at.memory.get("kind") == kind else (f"the weights are {_WORDS[kind]}",)
        at.memory["kind"] = kind
        doubt = solver_doubt("curvature/stationary_kind", bottom, type(self).__name__) or solver_doubt(
            "curvature/stationary_kind", top, type(self).__name__
        )
        doubtful = (self.metrics[1], self.metrics[2], self.metrics[4]) if doubt else ()
        return Reading(values, notes, doubtful, (doubt,) if doubt else ())

    def _kind(self, loss: float, first: float, second: float, negative: bool) -> Kind:
        """The word, from what going as far as the weights are long does to the loss, by order."""
        if max(first, second) <= self.flat * abs(loss):
            return "plateau"
        # first / (2 second) is gradient over curvature
        if first > self.steep * 2 * second:
            return "slope"
        return "saddle" if negative else "minimum"


_WORDS: dict[Kind, str] = {
    "slope": "on a slope",
    "plateau": "on a plateau",
    "saddle": "near a saddle",
    "minimum": "near a minimum",
}
