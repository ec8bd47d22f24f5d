"""The line at the end of a run."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from lightning_utilities.core import rank_zero
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from curvwatch import CurvatureMonitor, History
from curvwatch.results.summary import run_summary
from tests.support.modules import Classifier, batches, fit


def history_of(readings: int, *, suffix: str = "", every: int = 10) -> History:
    """A run whose loss falls, at a fifth of its edge."""
    history = History()
    for t in range(0, readings * every, every):
        values = {
            f"curvature/loss{suffix}": 1 / (t + 10),
            f"curvature/stability_ratio{suffix}": 0.2,
            f"curvature/edge{suffix}": 20.0,
            f"curvature/effective_edge{suffix}": 38.0,
        }
        history.record(t, values)
        history.record(t, {f"step/loss_change{suffix}": -0.1})
    return history


def test_counts_share_last_ratio_and_advice() -> None:
    text = run_summary(history_of(20), share=0.0481, steps=200)
    assert text.startswith(
        "curvwatch: 20 readings of the step and 20 of the landscape took 4.8% of the time; "
        "last stability ratio 0.2 (step 190); advice: learning rate 0.5, 5 times the largest"
    )


def test_too_few_readings_say_how_to_get_more() -> None:
    text = run_summary(history_of(1), share=0.5, steps=400)
    assert "1 reading of the step and 1 of the landscape" in text
    assert "advice needs 8 readings of the landscape: every_n_steps=33 would have given 13" in text


def test_a_refusal_is_given_with_its_reason() -> None:
    history = History()
    for t in range(0, 200, 10):  # the loss does not move
        history.record(t, {"curvature/loss": 1.0, "curvature/stability_ratio": 0.2})
        history.record(t, {"curvature/edge": 20.0, "curvature/effective_edge": 38.0})
    assert "; no advice: the loss " in run_summary(history, share=0.1, steps=200)


def test_several_optimizers_have_a_clause_each() -> None:
    history = history_of(20, suffix="-a")
    text = run_summary(history, share=0.1, steps=200)
    assert "last stability ratio of a 0.2 (step 190)" in text
    assert "learning rate of a 0.5" in text


def test_a_run_without_readings() -> None:
    assert run_summary(History(), share=0.0, steps=3) == "curvwatch: no readings in this run of 3 steps"


def test_a_fit_ends_with_the_line_and_with_the_share_of_the_whole_run(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monitor, logger = (
        CurvatureMonitor(every_n_steps=2),
        TensorBoardLogger(tmp_path, name="", version=""),
    )
    # Lightning's logger does not pass on what it says
    monkeypatch.setattr(rank_zero.log, "propagate", True)
    with caplog.at_level(logging.INFO, logger=rank_zero.log.name):
        fit(Classifier(), monitor, data=batches(48), max_steps=12, logger=logger)
    (line,) = [r.getMessage() for r in caplog.records if "readings of the step" in r.getMessage()]
    logged = EventAccumulator(str(tmp_path)).Reload().Scalars("curvature/run_cost_share")
    (event,) = logged
    assert event.step == 10
    # with all that the end of the run took
    assert f"6 readings of the step and 6 of the landscape took {event.value:.1%} of the time" in line
