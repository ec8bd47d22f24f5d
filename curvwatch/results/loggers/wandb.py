"""Weights & Biases: summaries of the metrics, alerts, their table, a figure, and the config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from curvwatch.charts.histogram import Histogram
from curvwatch.results.alerts import Alert

_STEP = "trainer/global_step"


def is_wandb(experiment: Any) -> bool:
    """Whether `experiment` is a W&B run."""
    return type(experiment).__module__.partition(".")[0] == "wandb" and hasattr(
        experiment, "define_metric"
    )


def define_summaries(experiment: Any, metrics: Iterable[str]) -> None:
    """Keep the largest and the last value of each metric in the run's summary."""
    for metric in metrics:
        experiment.define_metric(metric, step_metric=_STEP, summary="max,last")


def write_hyperparameters(experiment: Any, hyperparameters: Mapping[str, float | str | bool]) -> None:
    """Add them to the config, under a name of our own; a resumed run may have others."""
    experiment.config.update({"curvwatch": dict(hyperparameters)}, allow_val_change=True)


def write_alert(experiment: Any, alert: Alert) -> None:
    """Send `alert`; W&B drops repetitions by title, so numbers are in the text alone."""
    experiment.alert(title=f"curvwatch: {alert.rule}", text=str(alert), level="WARN")


def write_alerts(experiment: Any, alerts: Sequence[Alert], step: int) -> None:
    """Log all `alerts` as a table."""
    import wandb

    rows = [[a.step, a.rule, a.metric, a.value, a.text] for a in alerts]
    table = wandb.Table(columns=["step", "rule", "metric", "value", "meaning"], data=rows)
    experiment.log({"curvwatch/alerts": table, _STEP: step})


def write_histograms(experiment: Any, histograms: Mapping[str, Histogram], step: int) -> None:
    """Log distributions, each as a panel over time."""
    import wandb

    made = {name: wandb.Histogram(np_histogram=(h.weights, h.edges)) for name, h in histograms.items()}
    experiment.log({**made, _STEP: step})


def write_image(experiment: Any, name: str, image: np.ndarray, step: int) -> None:
    """Log a figure of the run, shape (height, width, 3)."""
    import wandb

    experiment.log({name: wandb.Image(image), _STEP: step})
