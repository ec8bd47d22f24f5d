"""Any other logger: it gets the scalars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from curvwatch.charts.histogram import Histogram
from curvwatch.results.alerts import Alert
from curvwatch.results.loggers.hyperparameters import Value


class PlainDestination:
    """A logger with `log_metrics(dict, step=)`, such as a CSVLogger; see `LoggerDestination`."""

    accepts_images: ClassVar[bool] = False

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def announce(self, metrics: Sequence[str], hyperparameters: Mapping[str, Value]) -> None:
        """Do nothing."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log `values` of optimizer step `step`."""
        self._logger.log_metrics(dict(values), step=step)

    def histograms(self, histograms: Mapping[str, Histogram], step: int) -> None:
        """Do nothing."""

    def alert(self, alert: Alert, alerts: Sequence[Alert]) -> None:
        """Do nothing."""

    def conclude(
        self, hyperparameters: Mapping[str, Value], alerts: Sequence[Alert], step: int
    ) -> None:
        """Do nothing."""

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """Do nothing."""

    def final(self, name: str, value: float, step: int) -> None:
        """Do nothing: to others each row is of a reading."""
