"""A run that was read back from its logs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from curvwatch.charts.histogram import Histogram


@dataclass(frozen=True)
class LoggedCurve:
    """One metric over a run, in the order of its steps.

    Attributes:
        steps: (n,) int64, the optimizer step of each value.
        values: (n,) float64, nan where a value is missing.
        times: (n,) float64, seconds since the first value of the run; nan where the log has none.
        epochs: (n,) float64; nan where the log has none.
    """

    steps: np.ndarray
    values: np.ndarray
    times: np.ndarray
    epochs: np.ndarray


@dataclass(frozen=True)
class LoggedDensity:
    """One distribution over a run, in the order of its steps.

    Attributes:
        steps: (n,) int64, the optimizer step of each reading.
        histograms: n, each with bins of its own.
        times: (n,) float64, seconds since the first value of the run; nan where the log has none.
        epochs: (n,) float64; nan where the log has none.
    """

    steps: np.ndarray
    histograms: tuple[Histogram, ...]
    times: np.ndarray
    epochs: np.ndarray


@dataclass(frozen=True)
class LoggedAlert:
    """An alert as a log has it."""

    step: int
    rule: str
    text: str


@dataclass(frozen=True)
class LoggedRun:
    """What one run's log says.

    Attributes:
        name: unique among the runs that are compared; may hold any characters.
        path: the folder or file.
        kind: "tensorboard", "csv", "wandb" or "history".
        curves: by metric name, those of the user, too.
        alerts: in the order of their steps.
        hyperparameters: as logged; empty where the log has none.
        problems: a line for each thing that is wrong with the log, for people.
        densities: distributions by name.
        doubtful: by metric the steps whose values are doubtful, where the log has that.
    """

    name: str
    path: Path
    kind: str
    curves: Mapping[str, LoggedCurve]
    alerts: tuple[LoggedAlert, ...] = ()
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    densities: Mapping[str, LoggedDensity] = field(default_factory=dict)
    doubtful: Mapping[str, Collection[int]] = field(default_factory=dict)
