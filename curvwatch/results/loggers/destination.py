"""What readings are logged to: one class for each kind of logger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np

from curvwatch.charts.histogram import Histogram
from curvwatch.results.alerts import Alert
from curvwatch.results.loggers.hyperparameters import Value


class LoggerDestination(Protocol):
    """One logger as a place for readings.

    Every destination logs scalars. Its other methods do nothing where the logger has no place for what
    they would show; `PlainDestination` has them all like that, to be inherited.

    Attributes:
        accepts_images: whether `image` shows any; figures are not drawn for the others.
    """

    accepts_images: ClassVar[bool]

    def announce(self, metrics: Sequence[str], hyperparameters: Mapping[str, Value]) -> None:
        """A run begins: it will have `metrics`, and its optimizers have `hyperparameters`."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log `values` of optimizer step `step`."""

    def histograms(self, histograms: Mapping[str, Histogram], step: int) -> None:
        """Log distributions of optimizer step `step`."""

    def alert(self, alert: Alert, alerts: Sequence[Alert]) -> None:
        """Show `alert`, the last of `alerts`."""

    def conclude(
        self, hyperparameters: Mapping[str, Value], alerts: Sequence[Alert], step: int
    ) -> None:
        """The run ended at `step`: log what is written once, its hyperparameters and all alerts."""

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """Show a figure of the run, shape (height, width, 3), uint8."""

    def final(self, name: str, value: float, step: int) -> None:
        """Log a value of the whole run, which is over."""
