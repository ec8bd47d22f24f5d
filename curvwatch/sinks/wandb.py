"""Weights & Biases: summaries of the metrics, and alerts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from curvwatch.alerts import Alert


def is_wandb(experiment: Any) -> bool:
    """Whether `experiment` is a W&B run."""
    return type(experiment).__module__.partition(".")[0] == "wandb" and hasattr(
        experiment, "define_metric"
    )


def define_summaries(experiment: Any, metrics: Iterable[str]) -> None:
    """Keep the largest and the last value of each metric in the run's summary."""
    for metric in metrics:
        experiment.define_metric(metric, step_metric="trainer/global_step", summary="max,last")


def write_alert(experiment: Any, alert: Alert) -> None:
    """Send `alert`; W&B drops repetitions by title, so numbers are in the text alone."""
    experiment.alert(title=f"curvwatch: {alert.rule}", text=str(alert), level="WARN")
