"""Runs as readers return them, of any length."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from curvwatch.report.logs import LoggedAlert, LoggedCurve, LoggedRun

METRICS = (
    "curvature/loss",
    "curvature/sharpness",
    "curvature/edge",
    "curvature/effective_sharpness",
    "curvature/effective_edge",
    "curvature/stability_ratio",
    "curvature/residual",
    "curvature/cost_share",
    "step/stability_ratio",
    "step/directional_sharpness",
    "step/gradient_correlation",
)


def curve(values: object, every: int = 10) -> LoggedCurve:
    """A reading every so many steps of a hundredth of a second, 100 steps an epoch."""
    array = np.asarray(values, dtype=float)
    steps = np.arange(len(array)) * every
    return LoggedCurve(steps, array, steps * 0.01, steps / 100)


def run(
    name: str,
    values: Mapping[str, object] | int,
    alerts: tuple[LoggedAlert, ...] = (),
    seed: int = 0,
) -> LoggedRun:
    """A run with such values, or with so many random readings of each of `METRICS`."""
    if isinstance(values, int):
        draws = np.random.default_rng(seed)
        values = {metric: draws.lognormal(size=values) for metric in METRICS}
        values["step/gradient_correlation"] = -np.asarray(values["step/gradient_correlation"])
    curves = {metric: curve(of) for metric, of in values.items()}
    return LoggedRun(name, Path("runs") / "x", "tensorboard", curves, alerts, {"lr": 0.1})
