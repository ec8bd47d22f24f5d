"""All loggers of a run: one that fails does not keep readings from the others."""

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
from curvwatch.results.loggers.destination import LoggerDestination
from curvwatch.results.loggers.hyperparameters import Value
from curvwatch.results.loggers.plain import PlainDestination

log = logging.getLogger("curvwatch")


class Loggers:
    """The loggers of a Trainer or of a loop.

    Args:
        loggers: Lightning loggers of either namespace, or what has their `log_metrics`.
        errors: where failures go: a warning for each cause.
        hyperparameters: of the optimizers.
    """

    def __init__(
        self,
        loggers: Sequence[Any],
        errors: ErrorPolicy,
        hyperparameters: Mapping[str, Value] | None = None,
    ) -> None:
        self._loggers = list(loggers)
        self._errors = errors
        self._hyperparameters = dict(hyperparameters or {})
        self._destinations: list[tuple[str, LoggerDestination]] = []  # with the names of the loggers

    def start(self, metrics: Iterable[str]) -> None:
        """Announce `metrics`, once a run."""
        metrics = list(metrics)
        self._destinations = [
            (type(logger).__name__, self._destination(logger)) for logger in self._loggers
        ]
        self._with_each(_ANNOUNCING, lambda to: to.announce(metrics, self._hyperparameters))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log `values` of optimizer step `step`."""
        self._with_each("logging a reading", lambda to: to.scalars(values, step))

    def histograms(self, histograms: Mapping[str, Histogram], step: int) -> None:
        """Log distributions of optimizer step `step`, where a logger has a place for them."""
        self._with_each("logging a distribution", lambda to: to.histograms(histograms, step))

    def alert(self, alert: Alert, alerts: Sequence[Alert]) -> None:
        """Show `alert`, the last of `alerts`, where a logger has a place for it."""
        self._with_each("logging an alert", lambda to: to.alert(alert, alerts))

    def finish(self, history: History, alerts: Sequence[Alert], step: int) -> None:
        """The run is over at `step`: log hyperparameters, a table of its alerts, and its figures."""
        # drawn once, and only if a logger shows images
        story = cache(lambda: _story(history, alerts))
        heat_maps = cache(lambda: _heat_maps(history))

        def draw(to: LoggerDestination, images: Callable[[], Mapping[str, np.ndarray]]) -> None:
            if to.accepts_images:
                for name, image in images().items():
                    to.image(name, image, step)

        self._with_each(
            "logging hyperparameters and alerts",
            lambda to: to.conclude(self._hyperparameters, alerts, step),
        )
        self._with_each("drawing the run", lambda to: draw(to, story))
        self._with_each("drawing heat maps", lambda to: draw(to, heat_maps))

    def _destination(self, logger: Any) -> LoggerDestination:
        with self._errors.guard(f"{_ANNOUNCING} to {type(logger).__name__}"):
            return _destination_of(logger)
        return PlainDestination(logger)  # its experiment cannot be opened: scalars may still work

    def _with_each(self, doing: str, do: Callable[[LoggerDestination], object]) -> None:
        for name, destination in self._destinations:
            with self._errors.guard(f"{doing} to {name}"):
                do(destination)


_ANNOUNCING = "announcing metrics"


def _destination_of(logger: Any) -> LoggerDestination:
    """By what it writes with: a subclass of a Lightning logger is as good."""
    experiment = getattr(logger, "experiment", None)
    if tensorboard.is_tensorboard(experiment):
        return tensorboard.TensorBoardDestination(logger)
    if wandb.is_wandb(experiment):
        return wandb.WandbDestination(logger)
    return PlainDestination(logger)


def _story(history: History, alerts: Sequence[Alert]) -> dict[str, np.ndarray]:
    if find_spec("matplotlib") is None:
        _log_missing_matplotlib()
        return {}
    from curvwatch.charts.run_figures import story_pixels

    return {"curvwatch/run": story_pixels(history, alerts)}


def _heat_maps(history: History) -> dict[str, np.ndarray]:
    if find_spec("matplotlib") is None:
        return {}
    from curvwatch.charts.heat_figures import heat_map_pixels

    return {f"curvwatch/{name}": image for name, image in heat_map_pixels(history).items()}


@cache
def _log_missing_matplotlib() -> None:
    """Log it once a process: a hint, not a failure, so not a warning of `ErrorPolicy`."""
    log.warning(
        "curvwatch logs no figures of the run, because matplotlib is not installed: "
        "pip install 'curvwatch[report]'"
    )
