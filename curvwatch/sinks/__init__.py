"""Where readings go: every logger gets the scalars, TensorBoard and W&B get more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from curvwatch.alerts import Alert
from curvwatch.faults import Faults
from curvwatch.sinks import tensorboard, wandb


class Sinks:
    """The loggers of a Trainer, as a place for readings.

    Args:
        loggers: Lightning loggers of either namespace; duck-typed.
        faults: where failures go; one logger's does not keep values from the others.
    """

    def __init__(self, loggers: Sequence[Any], faults: Faults) -> None:
        self._loggers = list(loggers)
        self._faults = faults

    def start(self, metrics: Iterable[str]) -> None:
        """Announce `metrics`, once a run."""
        metrics = list(metrics)

        def announce(logger: Any) -> None:
            experiment = getattr(logger, "experiment", None)
            if tensorboard.is_tensorboard(experiment):
                tensorboard.write_layout(experiment)
            elif wandb.is_wandb(experiment):
                wandb.define_summaries(experiment, metrics)

        self._with_each("announcing metrics", announce)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log `values` of optimizer step `step`."""
        self._with_each("logging a reading", lambda lg: lg.log_metrics(dict(values), step=step))

    def alert(self, alert: Alert) -> None:
        """Show `alert` where a logger has a place for it."""

        def show(logger: Any) -> None:
            experiment = getattr(logger, "experiment", None)
            if tensorboard.is_tensorboard(experiment):
                tensorboard.write_alert(experiment, alert)
            elif wandb.is_wandb(experiment):
                wandb.write_alert(experiment, alert)

        self._with_each("logging an alert", show)

    def _with_each(self, doing: str, do: Callable[[Any], object]) -> None:
        for logger in self._loggers:
            with self._faults.caught(f"{doing} to {type(logger).__name__}"):
                do(logger)


__all__ = ["Sinks"]
