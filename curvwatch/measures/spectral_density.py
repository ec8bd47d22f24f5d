"""The spectral density of the Hessian or of another matrix, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from curvwatch.charts.histogram import Histogram
from curvwatch.checks import check_int
from curvwatch.measures.base import Landscape, LandscapeMeasure, Reading
from curvwatch.measures.matrices import (
    Matrix,
    check_matrix,
    check_options,
    finite_or_note,
    given_outputs,
    leading_pairs,
    matrix_of,
    reason_missing,
    solver_doubt,
)
from curvwatch.measures.rounding import Amplification, amplification
from curvwatch.operators import Scaled, SymmetricOperator
from curvwatch.solvers import (
    FEWEST_VALUES,
    Eigenpairs,
    Quadrature,
    count_outliers,
    stochastic_lanczos,
)

_ENDS = ("lambda_min", "lambda_min_residual", "condition_number", "condition_number_error")
_SUMS = ("negative_mass", "negative_curvature", "trace", "frobenius", "effective_rank", "stable_rank")
_BULK = (
    "outliers",
    "outliers_error",
    "bulk_edge",
    "bulk_edge_residual",
    "condition_number_bulk",
    "condition_number_bulk_error",
)
_OF_HESSIAN = tuple(
    f"curvature/{name}" for name in (*_ENDS, *(n for s in _SUMS for n in (s, f"{s}_error")), *_BULK)
)


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
    | `curvature/outliers` | eigenvalues above the bulk |
    | `curvature/outliers_error` | how far off that may be |
    | `curvature/bulk_edge`, `curvature/bulk_edge_residual` | the largest eigenvalue of the bulk |
    | `curvature/condition_number_bulk`, `..._error` | largest eigenvalue / bulk edge |

    Errors join the standard error over the random vectors and, where the function of the eigenvalues
    has a kink, how far a quadrature of fewer steps is from it. That of `negative_mass` is a bound of
    the second kind: where many eigenvalues are near 0, as they are in networks, their signs are
    uncertain, and the error is large; `negative_curvature` is then the better number.

    Outliers are found by a scree test of the `leading` eigenvalues: over their ranks the logarithms of
    a bulk lie near a line, and outliers rise from it. Two lines are fitted, the break between them is
    the edge; the error is that of other breaks that fit nearly as well, or of a test of three quarters
    of the eigenvalues. Where one line does as well there are none. A classifier of C classes has some C
    outliers, so `leading` has to be some 3 C.

    Other matrices have the same metrics under `curvature/<of>/`, such as
    `curvature/preconditioned/density`.

    Price: one gradient, `probes` x `steps` products, 4 to 10 for the smallest eigenvalue, and some 2 x
    `leading` for the largest ones, twice that in the first reading; 4 to 10 with `leading=0`. In memory
    3 x `leading` + 5, or `steps`, vectors of the size of the weights during a reading.

    Args:
        of: "hessian"; "preconditioned": P^-1 (H + C), the Hessian as the optimizer sees it, whose edge
            of stability is `curvature/effective_edge`; "gauss_newton"; or "fisher", the true Fisher
            matrix. With another one each is a measure of its own, `spectral_density_<of>`.
        probes: random vectors, at least 2.
        steps: of Lanczos from each.
        bins: of the density.
        leading: how many of the largest eigenvalues outliers are looked for among, at least 8; 0: no
            outliers, and no metrics of them.
        rtol: residual at which the solvers stop: of the largest eigenvalues relative to each, of the
            smallest relative to the range of the spectrum.
        max_products: the most products of each solve.
        outputs_fn: for "gauss_newton" and "fisher", see `GaussNewton`.
        loss_of_outputs: likewise.
        every_n_steps: cadence of this measure alone; None: the monitor's.

    Sources: Golub & Welsch 1969; Lin, Saad & Yang 2016, section 3.2; Ghorbani, Krishnan & Xiao 2019,
    arXiv:1901.10159 (density); Roy & Vetterli 2007 (effective rank); Rudelson & Vershynin 2007 (stable
    rank); Sagun et al. 2017, arXiv:1706.04454 (bulk and outliers); Cattell 1966, Zoski & Jurs 1996
    (scree test).
    """

    name: str = "spectral_density"
    expensive: ClassVar[bool] = True
    metrics: tuple[str, ...] = _OF_HESSIAN
    sampling_metrics: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        *,
        of: Matrix = "hessian",
        probes: int = 4,
        steps: int = 32,
        bins: int = 128,
        leading: int = 30,
        rtol: float = 0.01,
        max_products: int = 300,
        outputs_fn: Callable[[Any], Any] | None = None,
        loss_of_outputs: Callable[[Any, Any], Any] | None = None,
        every_n_steps: int | None = None,
    ) -> None:
        super().__init__(every_n_steps=every_n_steps)
        check_matrix(of)
        check_options(probes=probes, rtol=rtol, max_products=max_products)
        for key, number in (("steps", steps), ("bins", bins)):
            check_int(key, number, at_least=2, what="a whole number, 2 or more,")
        if leading != 0 or isinstance(leading, bool):
            needed = f"a number of eigenvalues, {FEWEST_VALUES} or more, or 0"
            check_int("leading", leading, at_least=FEWEST_VALUES, what=needed)
        self.given = given_outputs(outputs_fn, loss_of_outputs)
        self.of: Matrix = of
        self.probes = probes
        self.steps = steps
        self.bins = bins
        self.leading = leading
        self.rtol = rtol
        self.max_products = max_products
        self._prefix = "curvature"
        if of != "hessian":
            self.name, self._prefix = f"{type(self).name}_{of}", f"curvature/{of}"
        names = _OF_HESSIAN if leading else _OF_HESSIAN[: -len(_BULK)]
        self.metrics = tuple(self._named(m.removeprefix("curvature/")) for m in names)

    def read(self, at: Landscape) -> Reading:
        """Read the density; nan with a note where products are not finite, or there is no matrix.

        Raises:
            CurvwatchError: the outputs of "gauss_newton" or "fisher" are not clear.
        """
        nothing = dict.fromkeys(self.metrics, math.nan)
        if (why := reason_missing(self.of, at)) is not None:
            return Reading(nothing, (why,))
        point = at.objective.linearize()
        if (note := finite_or_note(point)) is not None:
            return Reading(nothing, (note,))
        amplified = Amplification()
        if self.of == "preconditioned":
            amplified = amplification(at, point, "null")
        A = matrix_of(self.of, at, point, self.given, null=amplified.null)
        rule = stochastic_lanczos(A, self.probes, self.steps, generator=at.generator)
        top = self._leading(at, A, "highest", k=min(max(self.leading, 1), A.size))
        if not rule.finite or not math.isfinite(top.values[0]):
            return Reading(nothing, ("products with a vector on the probe are not finite",))
        # of shift - A the smallest comes first, and a residual is relative to the range
        shift = max(float(top.values[0]), 0.0)
        ones = torch.ones(A.length, dtype=A.dtype, device=A.device)
        bottom = self._leading(at, Scaled(A, ones, shift=shift * ones, sign=-1.0), "lowest")
        lowest = shift - float(bottom.values[0])
        residual = max(float(bottom.residuals[0]), rule.rounding)
        values: dict[str, float] = {}
        notes = _ends(values, top, lowest, residual)
        _sums(values, rule, top, lowest, residual)
        if self.leading:
            notes += _bulk(values, top, rule.rounding)
        doubtful: dict[str, str] = {}
        of_top = _ENDS[2:] + (_BULK if self.leading else ())
        for names, pairs in ((_ENDS, bottom), (of_top, top)):
            doubt = solver_doubt(self._named(names[0]), pairs, type(self).__name__)
            for name in names if doubt else ():
                doubtful.setdefault(self._named(name), doubt or "")
        rounding_doubt = amplified.doubt(self._named("density"), float(top.values[0]))
        if rounding_doubt:
            doubtful = dict.fromkeys(self.metrics, rounding_doubt)
        density = rule.density(rule.edges(self.bins))
        return Reading(
            {**nothing, **{self._named(name): value for name, value in values.items()}},
            tuple(note if self.of == "hessian" else f"{self.of}: {note}" for note in notes),
            doubtful=tuple(doubtful),
            doubts=tuple(dict.fromkeys(doubtful.values())),
            histograms={self._named("density"): Histogram(density.edges, density.weights)},
        )

    def _named(self, metric: str) -> str:
        return f"{self._prefix}/{metric}"

    def _leading(self, at: Landscape, A: SymmetricOperator, key: str, *, k: int = 1) -> Eigenpairs:
        return leading_pairs(at, A, key, k=k, rtol=self.rtol, max_products=self.max_products)


def _ends(values: dict[str, float], top: Eigenpairs, lowest: float, residual: float) -> list[str]:
    values["lambda_min"] = lowest
    values["lambda_min_residual"] = residual
    if abs(lowest) <= residual:
        return ["the smallest eigenvalue is 0 within its residual, so there is no condition number"]
    largest, off = abs(float(top.values[0])), float(top.residuals[0])
    _ratio(values, "condition_number", largest, off, abs(lowest), residual)
    return []


def _sums(
    values: dict[str, float], rule: Quadrature, top: Eigenpairs, lowest: float, residual: float
) -> None:
    estimates = {
        "negative_mass": rule.negative_share("count"),
        "negative_curvature": rule.negative_share("mass"),
        "trace": rule.trace(),
        "frobenius": rule.frobenius(),
        "effective_rank": rule.effective_rank(),
    }
    for name, estimate in estimates.items():
        values[name] = estimate.value
        values[f"{name}_error"] = estimate.error
    largest = max(abs(float(top.values[0])), abs(lowest))
    if largest > 0:
        squared = rule.frobenius_squared()
        stable = squared.value / largest**2
        off = max(float(top.residuals[0]), residual) / largest
        values["stable_rank"] = stable
        values["stable_rank_error"] = squared.error / largest**2 + 2 * off * stable


def _bulk(values: dict[str, float], top: Eigenpairs, rounding: float) -> list[str]:
    noise = torch.from_numpy(top.residuals).clamp(min=rounding).numpy()
    outliers = count_outliers(top.values, noise)
    if outliers is None:
        return ["there are too few weights, or eigenvalues above 0, to separate outliers from a bulk"]
    values["outliers"], values["outliers_error"] = float(outliers.count), outliers.error
    edge, off = float(top.values[outliers.count]), float(noise[outliers.count])
    values["bulk_edge"], values["bulk_edge_residual"] = edge, off
    if edge <= off:
        return ["the bulk ends at 0, so condition_number_bulk is undefined"]
    largest = float(top.values[0])
    _ratio(values, "condition_number_bulk", largest, float(top.residuals[0]), edge, off)
    return []


def _ratio(
    values: dict[str, float], name: str, above: float, off: float, below: float, below_off: float
) -> None:
    """A quotient, and how far it is from itself at its worst within both residuals."""
    values[name] = above / below
    values[f"{name}_error"] = (above + off) / (below - below_off) - values[name]
