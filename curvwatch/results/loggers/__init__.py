"""Where readings go: every logger gets the scalars, TensorBoard and W&B get more."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from curvwatch.charts.histogram import Histogram
from curvwatch.errors import ErrorPolicy
from curvwatch.results.alerts import Alert
from curvwatch.results.history import History
from curvwatch.results.loggers import tensorboard, wandb
from curvwatch.results.loggers.tensorboard import margins
from curvwatch.results.loggers.tensorboard_hparams import add_to_hparams

log = logging.getLogger("curvwatch")


class Loggers:
    """The loggers of a Trainer, as a place for readings.

    Args:
        loggers: Lightning loggers of either namespace; duck-typed.
        faults: where failures go; one logger's does not keep values from the others.
        hyperparameters: of the optimizers.
    """

    def __init__(
        self,
        loggers: Sequence[Any],
        faults: ErrorPolicy,
        hyperparameters: Mapping[str, float | str | bool] | None = None,
    ) -> None:
        self._loggers = list(loggers)
        self._faults = faults
        self._hyperparameters = dict(hyperparameters or {})
        self._tensorboards: set[int] = set()  # ids of loggers

    def start(self, metrics: Iterable[str]) -> None:
        """Announce `metrics`, once a run."""
        metrics = list(metrics)

        def announce(logger: Any) -> None:
            experiment = getattr(logger, "experiment", None)
            if tensorboard.is_tensorboard(experiment):
                self._tensorboards.add(id(logger))
                tensorboard.write_layout(experiment, metrics)
            elif wandb.is_wandb(experiment):
                wandb.define_summaries(experiment, metrics)
                wandb.write_hyperparameters(experiment, self._hyperparameters)

        self._with_each("announcing metrics", announce)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log `values` of optimizer step `step`."""

        def write(logger: Any) -> None:
            bounds = margins(values) if id(logger) in self._tensorboards else {}
            logger.log_metrics({**values, **bounds}, step=step)

        self._with_each("logging a reading", write)

    def histograms(self, histograms: Mapping[str, Histogram], step: int) -> None:
        """Log distributions of optimizer step `step`, where a logger has a place for them."""

        def write(logger: Any) -> None:
            experiment = getattr(logger, "experiment", None)
            if tensorboard.is_tensorboard(experiment):
                tensorboard.write_histograms(experiment, histograms, step)
            elif wandb.is_wandb(experiment):
                wandb.write_histograms(experiment, histograms, step)

        self._with_each("logging a distribution", write)

    def alert(self, alert: Alert, alerts: Sequence[Alert]) -> None:
        """Show `alert`, the last of `alerts`, where a logger has a place for it."""

        def show(logger: Any) -> None:
            experiment = getattr(logger, "experiment", None)
            if tensorboard.is_tensorboard(experiment):
                tensorboard.write_alerts(experiment, alerts)
            elif wandb.is_wandb(experiment):
                wandb.write_alert(experiment, alert)

        self._with_each("logging an alert", show)

    def finish(self, history: History, alerts: Sequence[Alert], step: int) -> None:
        """The run is over at `step`: log hyperparameters, a table of its alerts, and its figures."""
        story = cache(lambda: _drawn_story(history, alerts))
        heat_maps = cache(lambda: _drawn_heat_maps(history))

        def configure(logger: Any) -> None:
            experiment = getattr(logger, "experiment", None)
            # not before: TensorBoard would ignore what the user logs in the meantime
            if tensorboard.is_tensorboard(experiment):
                # hparams that Lightning's logger knows of and did not log: the user means to
                known = bool(getattr(logger, "hparams", None))
                add_to_hparams(experiment, self._hyperparameters, left_to_user=known)
            elif wandb.is_wandb(experiment) and alerts:
                wandb.write_alerts(experiment, alerts, step)

        def draw(logger: Any, images: Callable[[], Mapping[str, np.ndarray]]) -> None:
            experiment = getattr(logger, "experiment", None)
            for sink, mine in (
                (tensorboard, tensorboard.is_tensorboard),
                (wandb, wandb.is_wandb),
            ):
                if mine(experiment):
                    for name, image in images().items():
                        sink.write_image(experiment, name, image, step)

        self._with_each("logging hyperparameters and alerts", configure)
        self._with_each("drawing the run", lambda logger: draw(logger, story))
        self._with_each("drawing heat maps", lambda logger: draw(logger, heat_maps))

    def _with_each(self, doing: str, do: Callable[[Any], object]) -> None:
        for logger in self._loggers:
            with self._faults.guard(f"{doing} to {type(logger).__name__}"):
                do(logger)


def _drawn_story(history: History, alerts: Sequence[Alert]) -> dict[str, np.ndarray]:
    if find_spec("matplotlib") is None:
        _hint()
        return {}
    from curvwatch.charts.run_figures import story_pixels

    return {"curvwatch/run": story_pixels(history, alerts)}


def _drawn_heat_maps(history: History) -> dict[str, np.ndarray]:
    if find_spec("matplotlib") is None:
        return {}
    from curvwatch.charts.heat_figures import heat_map_pixels

    return {f"curvwatch/{name}": image for name, image in heat_map_pixels(history).items()}


@cache
def _hint() -> None:
    """Once a process."""
    log.warning("curvwatch draws the story of a run with matplotlib: pip install 'curvwatch[report]'")


__all__ = ["Sinks"]
