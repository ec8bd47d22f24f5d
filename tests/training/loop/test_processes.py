"""DDP on two processes: readings are those of the joined batch, and the same on both."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from curvwatch import Watch
from tests.support.modules import TIMES, mlp, sgd
from tests.support.paths import ROOT
from tests.support.trace import assert_same
from tests.training.loop.loops import loop, loss_fn
from tests.training.loop.two_processes import MEASURES, STEPS, doubled, share_of

pytestmark = pytest.mark.processes
READ_AT = [0, 2, 4]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What both processes saw in each run; one start for all of them."""
    directory = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "tests.training.loop.two_processes", str(directory)]
    done = subprocess.run(command, cwd=ROOT, timeout=500, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {
        run.name: [torch.load(run / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
        for run in directory.iterdir()
    }


def test_weights_are_those_of_a_run_without_watch(seen: Any) -> None:
    for rank in (0, 1):
        for run, plain in (("watched", "plain"), ("fabric", "plain"), ("sharded", "sharded plain")):
            assert_same(seen[run][rank]["weights"], seen[plain][rank]["weights"], run)


@pytest.mark.parametrize("run", ["watched", "fabric"])
def test_both_processes_read_the_same(seen: Any, run: str) -> None:
    first, second = (s["history"] for s in seen[run])
    assert [s["told"] + s["notes"] for s in seen[run]] == [[], []]
    assert [s["forwards of DDP"] for s in seen[run]] == [STEPS, STEPS]  # none of a reading
    assert first["curvature/sharpness"]["steps"] == first["step/loss_change"]["steps"] == READ_AT
    for name in set(first) - TIMES:
        assert_same(first[name], second[name], name)
        assert_same(first[name], seen["watched"][0]["history"][name], f"{name} with Fabric")


def test_one_process_logs(seen: Any) -> None:
    assert [len(s["logged"]) for s in seen["watched"]] == [len(READ_AT), 0]


def of_joined_batches(net: nn.Module, dtype: torch.dtype) -> Watch:
    """The same run on one process."""
    optimizer = sgd(net.parameters())
    pairs = zip(share_of(0, dtype), share_of(1, dtype), strict=True)
    data = [tuple(map(torch.cat, zip(*pair, strict=True))) for pair in pairs]
    assert len(data) == STEPS
    with Watch(net, optimizer, loss_fn, MEASURES, every_n_steps=2) as watch:
        loop(net, optimizer, data=data, watch=watch)
    return watch


def test_readings_are_those_of_the_joined_batch(seen: Any) -> None:
    torch.manual_seed(0)
    net = doubled()
    watch = of_joined_batches(net, torch.float64)
    joined = seen["joined"][0]["history"]
    for name in set(watch.history) - TIMES - {"curvature/cost_hvps", "curvature/residual"}:
        values = watch.history[name].values
        assert joined[name]["values"] == pytest.approx(values, rel=1e-6), name
    for name, weight in net.state_dict().items():
        torch.testing.assert_close(weight, seen["joined"][0]["weights"][name], rtol=1e-12, atol=1e-12)


def test_sharded_weights(seen: Any) -> None:
    torch.manual_seed(0)
    watch = of_joined_batches(mlp(), torch.float32)
    for process in seen["sharded"]:
        differences, compared = process["told"]
        assert "central differences" in differences
        assert "the shadow steps of compared optimizers are not made" in compared
        assert set(process["notes"]) == {"there is no shadow step of momentum, clipped_adam"}
        for name in ("curvature/sharpness", "curvature/stability_ratio", "step/stability_ratio"):
            values = watch.history[name].values
            assert process["history"][name]["values"] == pytest.approx(values, rel=1e-3), name
