"""Weights & Biases: summaries of the metrics, alerts and their table, figures, and the config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from curvwatch.charts.histogram import Histogram
from curvwatch.results.alerts import Alert
from curvwatch.results.loggers.hyperparameters import Value
from curvwatch.results.loggers.plain import PlainDestination

# the x axis of all panels: W&B's own step counts calls of log
STEP = "trainer/global_step"


def is_wandb(experiment: Any) -> bool:
    """Whether `experiment` is a W&B run."""
    return type(experiment).__module__.partition(".")[0] == "wandb" and hasattr(
        experiment, "define_metric"
    )


class WandbDestination(PlainDestination):
    """A logger whose `experiment` is a W&B run."""

    accepts_images: ClassVar[bool] = True

    @property
    def _run(self) -> Any:
        return self._logger.experiment

    def announce(self, metrics: Sequence[str], hyperparameters: Mapping[str, Value]) -> None:
        """Keep the largest and the last value of each metric in the summary; add to the config."""
        for metric in metrics:
            self._run.define_metric(metric, step_metric=STEP, summary="max,last")
        # under a name of our own: a resumed run may have other hyperparameters
        self._run.config.update({"curvwatch": dict(hyperparameters)}, allow_val_change=True)

    def histograms(self, histograms: Mapping[str, Histogram], step: int) -> None:
        """Log distributions, each as a panel over time."""
        import wandb

        panels = {
            name: wandb.Histogram(np_histogram=(h.weights, h.edges)) for name, h in histograms.items()
        }
        self._run.log({**panels, STEP: step})

    def alert(self, alert: Alert, alerts: Sequence[Alert]) -> None:
        """Send `alert`; W&B drops repetitions by title, so numbers are in the text alone."""
        self._run.alert(title=f"curvwatch: {alert.rule}", text=str(alert), level="WARN")

    def conclude(
        self, hyperparameters: Mapping[str, Value], alerts: Sequence[Alert], step: int
    ) -> None:
        """Log all `alerts` as a table."""
        if not alerts:
            return
        import wandb

        rows = [[a.step, a.rule, a.metric, a.value, a.text] for a in alerts]
        table = wandb.Table(columns=["step", "rule", "metric", "value", "meaning"], data=rows)
        self._run.log({"curvwatch/alerts": table, STEP: step})

    def final(self, name: str, value: float, step: int) -> None:
        """Put `value` into the summary of the run."""
        self._run.summary[name] = value

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """Log a figure of the run."""
        import wandb

        self._run.log({name: wandb.Image(image), STEP: step})
