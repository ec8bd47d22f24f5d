"""The spectral density of the Hessian, and what follows from it."""

from __future__ import annotations

import math
from typing import ClassVar

import torch

from curvwatch.histogram import Histogram
from curvwatch.measures.base import Landscape, LandscapeMeasure, Reading
from curvwatch.measures.matrices import check_options, leading, solver_doubt
from curvwatch.operators import Scaled, hessian
from curvwatch.solvers import Eigenpairs, Quadrature, stochastic_lanczos

_ENDS = ("lambda_min", "lambda_min_residual", "condition_number", "condition_number_error")
_SUMS = ("negative_mass", "negative_curvature", "trace", "frobenius", "effective_rank", "stable_rank")


class SpectralDensity(LandscapeMeasure):
    """The density of the eigenvalues of the Hessian H on the probe, by stochastic Lanczos quadrature.

    The density itself is the histogram `curvature/density`: the share of the eigenvalues in each bin,
    each eigenvalue spread by a Gaussian of 1 % of the range.

    | metric | value |
    |---|---|
    | `curvature/lambda_min` | smallest eigenvalue |
    | `curvature/lambda_min_residual` | abs(H v - value v), v the unit eigenvector: an eigenvalue lies \
within it |
    | `curvature/condition_number` | abs(largest eigenvalue) / abs(smallest eigenvalue) |
    | `curvature/condition_number_error` | bound of its error, from the residuals of both |
    | `curvature/negative_mass` | share of the eigenvalues below 0, by their number |
    | `curvature/negative_curvature` | sum of abs(eigenvalue) over those below 0 / over all |
    | `curvature/trace`, `curvature/frobenius` | sum, and root of the sum of squares, of eigenvalues |
    | `curvature/effective_rank` | exp of the entropy of abs(eigenvalue) / their sum |
    | `curvature/stable_rank` | frobenius^2 / (largest abs(eigenvalue))^2 |
    | `curvature/..._error` | error of each of the last six |

    Errors join the standard error over the random vectors and, where the function of the eigenvalues
    has a kink, how far a quadrature of fewer steps is from it. That of `negative_mass` is a bound of
    the second kind: where many eigenvalues are near 0, as they are in networks, their signs cannot be
    told, and the error is large; `negative_curvature` is then the better number.

    Price: one gradient, `probes` x `steps` products, and 4 to 10 each for the two ends. In memory
    `steps` vectors of the size of the weights during a reading.

    Args:
        probes: random vectors, at least 2.
        steps: of Lanczos from each.
        bins: of the density.
        rtol: residual of the two ends at which the solver stops: of the largest eigenvalue relative to
            it, of the smallest relative to the range of the spectrum.
        max_products: the most products of each solve.
        every_n_steps: cadence of this measure alone; None: the monitor's.

    Sources: Golub & Welsch 1969; Lin, Saad & Yang 2016, section 3.2; Ghorbani, Krishnan & Xiao 2019,
    arXiv:1901.10159 (density); Roy & Vetterli 2007 (effective rank); Rudelson & Vershynin 2007 (stable
    rank).
    """

    name: ClassVar[str] = "spectral_density"
    dear: ClassVar[bool] = True
    metrics: tuple[str, ...] = tuple(
        f"curvature/{name}" for name in (*_ENDS, *(n for s in _SUMS for n in (s, f"{s}_error")))
    )

    def __init__(
        self,
        *,
        probes: int = 4,
        steps: int = 32,
        bins: int = 128,
        rtol: float = 0.01,
        max_products: int = 100,
        every_n_steps: int | None = None,
    ) -> None:
        super().__init__(every_n_steps=every_n_steps)
        check_options(probes=probes, rtol=rtol, max_products=max_products)
        for name, number in (("steps", steps), ("bins", bins)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 2:
                raise ValueError(f"{name}={number!r}: a whole number, 2 or more, is needed")
        self.probes = probes
        self.steps = steps
        self.bins = bins
        self.rtol = rtol
        self.max_products = max_products

    def read(self, at: Landscape) -> Reading:
        """Read the density; nan with a note where products are not finite."""
        values = dict.fromkeys(self.metrics, math.nan)
        point = at.objective.linearize()
        if not (math.isfinite(point.loss) and bool(torch.isfinite(point.gradient).all())):
            note = f"on the probe the loss is {point.loss} or its gradient is not finite"
            return Reading(values, (note,))
        H = hessian(point)
        rule = stochastic_lanczos(H, self.probes, self.steps, generator=at.generator)
        options = {"rtol": self.rtol, "max_products": self.max_products}
        top = leading(at, H, "highest", **options)  # type: ignore[arg-type]
        if not rule.finite or not math.isfinite(top.values[0]):
            return Reading(values, ("Hessian-vector products on the probe are not finite",))
        # of shift - H the smallest comes first, and a residual is relative to the range
        shift = max(float(top.values[0]), 0.0)
        ones = torch.ones(H.length, dtype=H.dtype, device=H.device)
        turned = Scaled(H, ones, shift=shift * ones, sign=-1.0)
        bottom = leading(at, turned, "lowest", **options)  # type: ignore[arg-type]
        lowest = shift - float(bottom.values[0])
        residual = max(float(bottom.residuals[0]), rule.rounding)
        notes = _ends(values, top, lowest, residual)
        _sums(values, rule, top, lowest, residual)
        doubts = [
            (self.metrics[i:j], doubt)
            for i, j, pairs in ((0, 4, bottom), (2, 4, top))
            if (doubt := solver_doubt(self.metrics[i], pairs, type(self).__name__))
        ]
        density = rule.density(rule.edges(self.bins))
        return Reading(
            values,
            notes,
            doubtful=tuple(dict.fromkeys(name for names, _ in doubts for name in names)),
            doubts=tuple(doubt for _, doubt in doubts),
            histograms={"curvature/density": Histogram(density.edges, density.weights)},
        )


def _ends(values: dict[str, float], top: Eigenpairs, lowest: float, residual: float) -> tuple[str, ...]:
    values["curvature/lambda_min"] = lowest
    values["curvature/lambda_min_residual"] = residual
    if abs(lowest) <= residual:
        return ("the smallest eigenvalue cannot be told from 0, so there is no condition number",)
    condition = abs(float(top.values[0]) / lowest)
    values["curvature/condition_number"] = condition
    # the ratio at its worst within both residuals
    worst = (abs(float(top.values[0])) + float(top.residuals[0])) / (abs(lowest) - residual)
    values["curvature/condition_number_error"] = worst - condition
    return ()


def _sums(
    values: dict[str, float], rule: Quadrature, top: Eigenpairs, lowest: float, residual: float
) -> None:
    found = {
        "negative_mass": rule.negative_share("count"),
        "negative_curvature": rule.negative_share("mass"),
        "trace": rule.trace(),
        "frobenius": rule.frobenius(),
        "effective_rank": rule.effective_rank(),
    }
    for name, estimate in found.items():
        values[f"curvature/{name}"] = estimate.value
        values[f"curvature/{name}_error"] = estimate.error
    largest = max(abs(float(top.values[0])), abs(lowest))
    if largest > 0:
        squared = rule.frobenius_squared()
        stable = squared.value / largest**2
        off = max(float(top.residuals[0]), residual) / largest
        values["curvature/stable_rank"] = stable
        values["curvature/stable_rank_error"] = squared.error / largest**2 + 2 * off * stable
