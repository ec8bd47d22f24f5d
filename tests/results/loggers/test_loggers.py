"""Which destination a logger gets, and that one which fails does not keep readings from the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from curvwatch import Alert, History
from curvwatch.charts.histogram import Histogram
from curvwatch.errors import ErrorPolicy
from curvwatch.results.loggers import LoggerDestination, Loggers
from curvwatch.results.loggers.loggers import _destination_of
from curvwatch.results.loggers.plain import PlainDestination
from curvwatch.results.loggers.tensorboard import TensorBoardDestination
from tests.support.modules import told

HALVES = Histogram(np.arange(3.0), np.array([0.5, 0.5]))


class Writer:
    """Records what a SummaryWriter is called with."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def add_custom_scalars(self, page: Any) -> None:
        self.calls.append("add_custom_scalars")

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("add_"):
            raise AttributeError(name)
        return lambda *_, **__: self.calls.append(name)


class Logger:
    """Records rows, and counts how often it is asked for its experiment."""

    def __init__(self, experiment: Any = None) -> None:
        self._experiment = experiment
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.opened = 0

    @property
    def experiment(self) -> Any:
        self.opened += 1
        if isinstance(self._experiment, Exception):
            raise self._experiment
        return self._experiment

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.rows.append((step, metrics))


class Full(Logger):
    """A logger whose disk is full."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        raise OSError("no space left")


def log_a_run(loggers: Sequence[Any]) -> Loggers:
    places = Loggers(loggers, ErrorPolicy(), {"optimizer/class": "SGD"})
    places.start(["curvature/sharpness"])
    for step in (0, 2):
        places.scalars({"curvature/sharpness": 2.0, "curvature/residual": 0.5}, step)
        places.histograms({"curvature/density": HALVES}, step)
    alert = Alert("rule", "curvature/sharpness", 2, 2.0, "it is sharp")
    places.alert(alert, [alert])
    history = History()
    history.record(0, {"curvature/sharpness": 2.0})
    places.finish(history, [alert], 2, share=lambda: 0.05)
    return places


def test_each_logger_gets_the_destination_of_what_it_writes_with() -> None:
    cases = ((Writer(), TensorBoardDestination), (object(), PlainDestination), (None, PlainDestination))
    for experiment, kind in cases:
        destination: LoggerDestination = _destination_of(Logger(experiment))
        assert type(destination) is kind


def test_any_other_logger_gets_the_scalars_alone_and_is_asked_once_what_it_is() -> None:
    other, board = Logger(), Logger(Writer())
    with told() as texts:
        log_a_run([other, board])
    assert texts == []
    assert other.opened == 1
    values = {"curvature/sharpness": 2.0, "curvature/residual": 0.5}
    assert other.rows == [(0, values), (2, values)]
    bands = {"curvature/sharpness_low": 1.0, "curvature/sharpness_high": 3.0}
    assert board.rows == [(0, {**values, **bands}), (2, {**values, **bands})]
    calls = board.experiment.calls
    assert calls[:2] == ["add_custom_scalars", "add_histogram_raw"]
    assert calls.count("add_histogram_raw") == 2
    assert calls.count("add_text") == 1
    assert "add_image" in calls


def test_a_logger_that_fails_is_one_warning_and_the_others_go_on() -> None:
    other = Logger()
    with told() as texts:
        log_a_run([Full(), other])
    assert texts == [
        "curvwatch: logging a reading to Full failed: OSError: no space left. Training goes on"
    ]
    assert len(other.rows) == 2


def test_an_experiment_that_cannot_be_opened_is_one_warning_and_scalars_are_tried() -> None:
    closed = Logger(ConnectionError("no network"))
    with told() as texts:
        log_a_run([closed])
    (text,) = texts
    assert "announcing metrics to Logger failed: ConnectionError: no network" in text
    assert len(closed.rows) == 2


def test_errors_are_raised_where_the_user_wants_them() -> None:
    places = Loggers([Full()], ErrorPolicy("raise"))
    places.start([])
    with pytest.raises(OSError, match="no space left"):
        places.scalars({"curvature/sharpness": 2.0}, 0)
