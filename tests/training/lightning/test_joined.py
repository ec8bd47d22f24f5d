"""Two processes with half of each batch: the readings of one process on the whole batch."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.modules import TIMES, Classifier
from tests.support.paths import ROOT
from tests.support.studies import without
from tests.support.trace import assert_same
from tests.training.lightning.joined_runs import OPTIMIZERS, PLAIN, SHARDED, STEPS, Joined, net, run

pytestmark = pytest.mark.processes
# differ between exact products and differences of gradients
COUNTED = {*TIMES, "curvature/cost_hvps", "curvature/residual"}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes saw in all runs but the plain ones."""
    return seen_by_both(tmp_path_factory.mktemp("joined"))


@pytest.fixture(scope="module")
def seen_plain(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return seen_by_both(tmp_path_factory.mktemp("joined"), PLAIN)


@pytest.fixture
def of_sharded(request: pytest.FixtureRequest, name: str) -> list[dict[str, Any]]:
    """What each saw of SHARDED[name]."""
    found: list[dict[str, Any]] = request.getfixturevalue("seen_plain" if name == PLAIN else "seen")
    return found


def seen_by_both(directory: Path, *of: str) -> list[dict[str, Any]]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    at = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    command = [sys.executable, "-m", "tests.training.lightning.joined_runs", str(directory), *of]
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **at, "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=250)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    return [torch.load(directory / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def compared(history: dict[str, Any], twin: dict[str, Any], *, rtol: float) -> None:
    assert set(history) == set(twin) | ({"curvature/sharpness_stderr"} & set(history))
    for name in set(twin) - COUNTED:
        assert history[name]["steps"] == twin[name]["steps"], name
        np.testing.assert_allclose(
            history[name]["values"], twin[name]["values"], rtol=rtol, atol=1e-12, err_msg=name
        )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_replicated_weights_are_read_as_on_the_joined_batch(seen: Any, name: str) -> None:
    twin = run(
        lambda: Classifier(net(), OPTIMIZERS[name]),
        data=Joined(dtype=torch.float64),
        precision="64-true",
    )
    for process in seen:
        ours = process[f"ddp {name}"]
        assert ours["history"]["curvature/sharpness"]["steps"] == list(range(STEPS))
        compared(ours["history"], twin["history"], rtol=1e-5)


@pytest.mark.parametrize("name", without(SHARDED, leave=[PLAIN]))
def test_sharded_weights_are_read_as_on_one_process(of_sharded: Any, name: str) -> None:
    optimizer, options = SHARDED[name]
    twin = run(lambda: Classifier(net(), OPTIMIZERS[optimizer]), **options)
    for process in of_sharded:
        ours = process[f"fsdp {name} watched"]
        compared(ours["history"], twin["history"], rtol=1e-3)
        (told,) = [t for t in ours["told"] if t.startswith("curvwatch") and "no logger" not in t]
        assert "sharded, so Hessian-vector products are made by central differences" in told


@pytest.mark.parametrize("name", without(SHARDED, leave=[PLAIN]))
def test_sharded_weights_are_left_as_they_were(of_sharded: Any, name: str) -> None:
    for process in of_sharded:
        watched, plain = (process[f"fsdp {name}{w}"] for w in (" watched", ""))
        for part in ("steps", "weights", "gradients", "state"):
            assert_same(watched[part], plain[part], part)


def test_a_batch_that_is_not_finite_on_one_process_hangs_none(seen: Any) -> None:
    for process in seen:
        watched, plain = (process[f"not finite{w}"] for w in (" watched", ""))
        assert watched["steps"] == plain["steps"] == STEPS
        assert_same(watched["weights"], plain["weights"], "weights")
    first, second = (process["not finite watched"] for process in seen)
    for name in set(first["history"]) - TIMES:
        assert_same(first["history"][name], second["history"][name], name)
    assert_same(first["alerts"], second["alerts"])
    assert [a["rule"] for a in first["alerts"]] == ["not_finite"]
    assert np.isfinite(first["history"]["step/loss_change"]["values"]).tolist() == [True] * 3 + [False]


def test_a_process_that_is_not_ready_lets_none_wait(seen: Any) -> None:
    (first,), (second,) = (
        [t for t in process["not ready"]["told"] if "OSError" in t or "not ready" in t]
        for process in seen
    )
    assert "another process was not ready" in first
    assert "getting ready for a reading failed: OSError: cannot be copied" in second
    for process in seen:
        assert process["not ready"]["steps"] == STEPS
        assert "curvature/sharpness" not in process["not ready"]["history"]
