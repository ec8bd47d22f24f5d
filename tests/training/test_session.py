"""What a session says."""

from __future__ import annotations

import logging
import pickle
from typing import Any

import pytest

from curvwatch import CurvatureMonitor
from curvwatch.training.schedule.schedule import Schedule
from tests.support.modules import Classifier, batches, fit


def said(caplog: pytest.LogCaptureFixture, **options: Any) -> list[str]:
    with caplog.at_level(logging.INFO, logger="curvwatch"):
        fit(Classifier(), CurvatureMonitor(**options), data=batches(4 * 40), max_steps=40)
    return [record.getMessage() for record in caplog.records if record.name == "curvwatch"]


def test_a_reading_that_takes_long_is_announced_once_for_its_stage(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curvwatch.training.session._LONG", 0.0)
    messages = [text for text in said(caplog) if "will take some" in text]
    assert sorted(text.split(" at step")[0] for text in messages) == [
        "curvwatch: the reading of the landscape",
        "curvwatch: the reading of the step",
    ]


def test_a_budget_that_pays_too_little_is_said_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Schedule, "shortfall", property(lambda schedule: "the budget pays for nothing"))
    assert said(caplog) == ["curvwatch: the budget pays for nothing"]


def test_a_fixed_cadence_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog, every_n_steps=5) == []


def test_a_monitor_can_be_pickled_before_and_after_a_fit() -> None:
    """Trainers that start processes do so."""
    monitor = CurvatureMonitor()
    pickle.loads(pickle.dumps(monitor))
    fit(Classifier(), monitor, data=batches(48))
    again = pickle.loads(pickle.dumps(monitor))
    assert len(again.history) == len(monitor.history) > 0
