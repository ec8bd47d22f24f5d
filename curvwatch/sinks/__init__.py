"""Where readings go: every logger gets the scalars, TensorBoard and W&B get more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from curvwatch.alerts import Alert
from curvwatch.sinks import tensorboard, wandb


class Sinks:
    """The loggers of a Trainer, as a place for readings.

    Args:
        loggers: Lightning loggers of either namespace; duck-typed.
    """

    def __init__(self, loggers: Sequence[Any]) -> None:
        self._loggers = list(loggers)

    def start(self, metrics: Iterable[str]) -> None:
        """Announce `metrics`, once a run."""
        metrics = list(metrics)
        for experiment in self._experiments():
            if tensorboard.is_tensorboard(experiment):
                tensorboard.write_layout(experiment)
            elif wandb.is_wandb(experiment):
                wandb.define_summaries(experiment, metrics)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log `values` of optimizer step `step`."""
        for logger in self._loggers:
            logger.log_metrics(dict(values), step=step)

    def alert(self, alert: Alert) -> None:
        """Show `alert` where a logger has a place for it."""
        for experiment in self._experiments():
            if tensorboard.is_tensorboard(experiment):
                tensorboard.write_alert(experiment, alert)
            elif wandb.is_wandb(experiment):
                wandb.write_alert(experiment, alert)

    def _experiments(self) -> list[Any]:
        return [e for e in (getattr(lg, "experiment", None) for lg in self._loggers) if e is not None]


__all__ = ["Sinks"]
