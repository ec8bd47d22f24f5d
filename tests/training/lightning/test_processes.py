"""Two processes with different data: the same readings, steps and end on both, and no hang."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch

from tests.support.modules import TIMES
from tests.support.paths import ROOT
from tests.support.trace import assert_same
from tests.training.lightning.two_processes import STEPS

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What both processes saw in each run; one start for all of them."""
    directory = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "tests.training.lightning.two_processes", str(directory)]
    done = subprocess.run(command, cwd=ROOT, timeout=500, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {
        run.name: [torch.load(run / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
        for run in directory.iterdir()
        if (run / "0.pt").exists()
    }


def of_ours(process: dict[str, Any]) -> list[str]:
    return [text for text in process["warnings"] if text.startswith("curvwatch")]


def test_weights_and_logged_values_are_those_of_a_run_without_the_monitor(seen: Any) -> None:
    for plain, watched in zip(seen["plain"], seen["watched"], strict=True):
        assert plain["steps"] == STEPS
        assert_same(plain["weights"], watched["weights"], "weights")
        assert_same(plain["logged"], watched["logged"], "logged")


@pytest.mark.parametrize("run", ["watched", "budget"])
def test_both_processes_read_the_same(seen: Any, run: str) -> None:
    first, second = (s["history"] for s in seen[run])
    assert not of_ours(seen[run][0])
    if run == "watched":
        assert first["curvature/sharpness"]["steps"] == list(range(STEPS))
        assert first["step/loss_change"]["steps"] == list(range(STEPS))
    assert set(first) == set(second)
    for name in first:
        assert first[name]["steps"] == second[name]["steps"]
        if name not in TIMES:
            assert_same(first[name], second[name], name)


def test_a_loss_that_is_not_finite_on_one_process_stops_both_at_the_same_step(seen: Any) -> None:
    """The loss breaks at step 3, the next step with a reading is 4."""
    for process in seen["stop"]:
        assert process["steps"] == 5
        (alert,) = process["alerts"]
        assert (alert["rule"], alert["metric"], alert["step"]) == ("not_finite", "training loss", 4)
        assert math.isinf(alert["value"])


def test_an_alert_acts_on_both_processes_alike(seen: Any) -> None:
    plain = seen["watched"][0]["lr"]
    for process in seen["changes"]:
        assert of_ours(process) == []
        assert [(a["rule"], a["step"], a["value"]) for a in process["alerts"]] == [("mine", 4, 9.0)]
        assert process["lr"] == pytest.approx(plain / 2)
    assert_same(*(process["weights"] for process in seen["changes"]), "weights")


def test_a_reading_that_fails_on_one_process_fails_on_both(seen: Any) -> None:
    ours, other = seen["fails"]
    assert ours["steps"] == other["steps"] == STEPS
    assert of_ours(ours) == [
        "curvwatch: the reading of sharpness failed: the reading failed on another process, whose "
        "warning says why. Training goes on"
    ]
    assert of_ours(other) == [
        "curvwatch: the reading of sharpness failed: OSError: no space left. Training goes on"
    ]
    for process in (ours, other):
        assert all(math.isnan(v) for v in process["history"]["curvature/sharpness"]["values"])
