"""The callback that keeps checkpoints, on two processes (DDP over gloo)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from curvwatch.landscape import Snapshot, Snapshots, snapshots_in
from tests.landscape.two_processes import STEPS
from tests.support.modules import batches, fit
from tests.support.paths import ROOT
from tests.support.trace import assert_same
from tests.training.lightning.two_processes import Normalised

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all runs; one start for them."""
    directory = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "tests.landscape.two_processes", str(directory)]
    done = subprocess.run(command, cwd=ROOT, timeout=500, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return directory


def seen_in(directory: Path, run: str) -> list[dict[str, Any]]:
    return [torch.load(directory / run / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_the_run_is_bit_for_bit_what_it_is_without(directory):
    for plain, watched in zip(seen_in(directory, "plain"), seen_in(directory, "watched"), strict=True):
        for what in ("weights", "random"):
            assert_same(plain[what], watched[what], what)


def test_files_are_written_once_and_are_those_of_one_process(directory, tmp_path):
    zero, one = seen_in(directory, "watched")
    alone = Snapshots(tmp_path / "alone", grid="1-2-5")
    fit(Normalised(), alone, data=batches(4 * STEPS), max_steps=STEPS, logger=False)
    assert zero["written"] == list(alone.paths)
    assert one["written"] == []
    assert list(zero["paths"]) == list(alone.paths)
    assert zero["began"] == one["began"] == [0]


def test_all_ranks_know_what_there_is(directory):
    for run in ("watched", "resumed"):
        zero, one = seen_in(directory, run)
        assert zero["paths"] == one["paths"]
        assert zero["state"]["run"] == one["state"]["run"] != ""
        assert zero["state"]["folder"] == one["state"]["folder"]
        # the files in "snapshots" are of another run
        assert one["state"]["folder"] == str(directory / "snapshots-1")


def test_a_resumed_run_goes_on_in_its_folder(directory):
    watched, (zero, one) = seen_in(directory, "watched")[0], seen_in(directory, "resumed")
    assert zero["warnings"] == one["warnings"] == []
    assert zero["began"] == one["began"] == [0, 1, 2]
    assert (zero["written"], one["written"]) == ([5, 8], [])
    files = snapshots_in(directory / "snapshots-1")
    assert {step: str(path) for step, path in files.items()} == zero["paths"] == one["paths"]
    assert list(files) == [0, 1, 2, 5, 8]
    assert zero["state"]["run"] == watched["state"]["run"]
    kept = Snapshot.load(files[8]).state
    # of rank zero, whose batch norm saw other rows
    assert_same({n: kept[n] for n in zero["weights"]}, zero["weights"], "the end")
    assert not torch.equal(zero["weights"]["net.1.running_mean"], one["weights"]["net.1.running_mean"])


def test_a_folder_that_cannot_be_written_stops_nobody(directory):
    zero, one = seen_in(directory, "fails")
    assert len(zero["warnings"]) == 1
    assert one["warnings"] == []
    assert zero["paths"] == one["paths"] == {}
