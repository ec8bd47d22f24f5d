"""How far values may be off, as charts draw it: a band around a line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from curvwatch.charts.chart import match, placed


class Error(NamedTuple):
    """A metric from which the error of a value follows.

    Attributes:
        metric: the name of the error.
        times: the factor by which it is drawn.
        relative: whether it is a share of the value, or of `per`.
        per: the metric that it is a share of, where that is another than the value's own.
    """

    metric: str
    times: float = 1.0
    relative: bool = False
    per: str = ""


def _stderr(metric: str) -> tuple[Error, ...]:
    """Two standard errors of a mean."""
    return (Error(f"{metric}_stderr", 2.0),)


def _bound(metric: str) -> tuple[Error, ...]:
    return (Error(f"{metric}_error"),)


_RATIO = Error("curvature/batch_sharpness_stderr", 2.0, relative=True, per="curvature/batch_sharpness")
# several errors of a value add up: the solver's bound, and how far the whole loss may be from the probe
ERRORS: dict[str, tuple[Error, ...]] = {
    "curvature/sharpness": (
        Error("curvature/residual", relative=True),
        Error("curvature/sharpness_stderr", 2.0),
    ),
    "curvature/batch_stability_ratio": (_RATIO,),
    "curvature/critical_sharpness": (Error("curvature/critical_sharpness_error", relative=True),),
    "curvature/critical_ratio": (Error("curvature/critical_sharpness_error", relative=True),),
    "curvature/lambda_min": (Error("curvature/lambda_min_residual"),),
    "curvature/bulk_edge": (Error("curvature/bulk_edge_residual"),),
    "curvature/<matrix>/lambda_min": (Error("curvature/<matrix>/lambda_min_residual"),),
    "curvature/<matrix>/bulk_edge": (Error("curvature/<matrix>/bulk_edge_residual"),),
    "gauss_newton/lambda_max": (Error("gauss_newton/lambda_max_residual", relative=True),),
    "gauss_newton/rest_lambda_max": (Error("gauss_newton/rest_lambda_max_residual", relative=True),),
    "fisher/lambda_max": (Error("fisher/lambda_max_residual", relative=True),),
    "curvature/index_share": (Error("curvature/index_share_error"),),
    "curvature/subspace_gradient_share": (Error("curvature/subspace_error"),),
    "curvature/subspace_update_share": (Error("curvature/subspace_error"),),
    **{
        metric: _bound(metric)
        for of in ("curvature", "curvature/<matrix>")
        for metric in (
            f"{of}/condition_number",
            f"{of}/condition_number_bulk",
            f"{of}/outliers",
            f"{of}/negative_mass",
            f"{of}/negative_curvature",
            f"{of}/trace",
            f"{of}/frobenius",
            f"{of}/effective_rank",
            f"{of}/stable_rank",
        )
    },
    **{
        metric: _stderr(metric)
        for metric in (
            "curvature/batch_sharpness",
            "curvature/interaction_sharpness",
            "curvature/nonzero_share",
            "curvature/layer_heterogeneity",
            "curvature/layer/<layer>/trace",
            "curvature/layer/<layer>/share",
            "curvature/layer/<layer>/signal",
            "curvature/layer_signal",
            "gauss_newton/trace",
            "gauss_newton/distance",
            "fisher/trace",
            "fisher/cosine",
            "gradient/noise_scale",
            "gradient/noise_trace",
            "gradient/signal",
        )
    },
}


def errors_of(name: str) -> tuple[Error, ...]:
    """The errors of the metric `name`, with its suffix and of its layer; () where there are none."""
    for metric, errors in ERRORS.items():
        if found := match(metric, name):
            return tuple(
                error._replace(
                    metric=placed(error.metric, found.place) + found.suffix,
                    per=error.per and error.per + found.suffix,
                )
                for error in errors
            )
    return ()


def half_widths(
    values: np.ndarray, errors: Sequence[Error], others: Mapping[str, np.ndarray]
) -> np.ndarray:
    """(n,) how far each of the (n,) `values` may be off; nan where that is unknown.

    Args:
        values: of a metric.
        errors: of it, from `errors_of`.
        others: (n,) values of other metrics, by name, at the same readings; those that are not finite
            are ignored.
    """
    total = np.full(len(values), math.nan)
    missing = total.copy()
    for error in errors:
        with np.errstate(divide="ignore", invalid="ignore"):
            width = error.times * np.asarray(others.get(error.metric, missing))
            if error.relative:
                width = width * np.abs(values)
            if error.per:
                width = width / np.abs(others.get(error.per, missing))
        known = np.isfinite(width)
        total[known] = np.where(np.isnan(total[known]), 0.0, total[known]) + width[known]
    return total
