"""Weights sharded over two processes (FSDP2): each measure reads as on one, or says that it cannot."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from curvwatch.measures import MEASURES
from tests.lightning.trace import assert_same
from tests.measures.sharded_runs import STEPS, net, run

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parents[2]
# how exact a value is, not a value
ERRORS = ("residual", "_stderr", "_error", "_gain")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both processes saw of each measure; one start for all of them."""
    directory = tmp_path_factory.mktemp("sharded")
    command = [sys.executable, "-m", "tests.measures.sharded_runs", str(directory)]
    done = subprocess.run(command, cwd=ROOT, timeout=120, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [torch.load(directory / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def values_of(history: dict[str, Any], metric: str) -> list[float]:
    return history.get(metric, {"values": [math.nan] * STEPS})["values"]


def close(name: str, history: dict[str, Any], twin: dict[str, Any]) -> None:
    """Within 4 standard errors of both where values are of random vectors, else to 1e-5."""
    for metric in twin:
        if metric.endswith(ERRORS) or "/cost_" in metric:
            continue
        error = next((metric + e for e in ("_stderr", "_error") if metric + e in twin), None)
        pairs = zip(values_of(history, metric), twin[metric]["values"], strict=True)
        for i, (ours, theirs) in enumerate(pairs):
            allowed = 1e-5 * abs(theirs) + 1e-9
            if error is not None:
                allowed += 4 * math.hypot(values_of(history, error)[i], values_of(twin, error)[i])
            both = math.isnan(ours) and math.isnan(theirs)
            assert both or abs(ours - theirs) <= allowed, (name, metric, ours, theirs, allowed)


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_reads_as_on_one_process_or_says_that_it_cannot(seen: Any, name: str) -> None:
    twin = run(name, net(), part=slice(None))
    assert not [text for text in twin["told"] if "failed" in text]
    for process in seen:
        ours, plain = process[name], process["plain"]
        assert_same(ours["weights"], plain["weights"], "weights")
        failed = [text for text in ours["told"] if "failed" in text]
        if failed:
            assert len(failed) == 1
            assert f"the reading of {name} failed" in failed[0]
            assert "spread over processes" in failed[0]
            metrics = MEASURES[name]().metrics
            assert all(math.isnan(v) for m in metrics for v in values_of(ours["history"], m))
        else:
            assert any(math.isfinite(v) for m in ours["history"] for v in values_of(ours["history"], m))
            close(name, ours["history"], twin["history"])
    first, second = (process[name]["history"] for process in seen)
    for metric in set(first) - {"curvature/cost_seconds", "curvature/cost_share"}:
        assert_same(first[metric], second[metric], metric)


def test_those_that_cannot_are_the_ones_that_need_whole_weights(seen: Any) -> None:
    refused = {name for name in MEASURES if any("failed" in text for text in seen[0][name]["told"])}
    assert refused == {"gauss_newton", "fisher", "batch_sharpness", "gradient_noise"}
