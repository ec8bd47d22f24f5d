"""Damaged logs: a clear line, and what could be read of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from curvwatch.report.logs import LoggedRun, read_runs
from tests.report import logs


def only(path: Path) -> LoggedRun:
    (run,), problems = read_runs([path])
    assert problems == []
    return run


def event_file(folder: Path) -> Path:
    (file,) = logs.tensorboard(folder).glob("*tfevents*")
    return file


def test_an_event_file_may_be_cut_anywhere(tmp_path: Path) -> None:
    file = event_file(tmp_path / "run")
    whole = file.read_bytes()
    full, _ = read_runs([file])
    seen = set()
    for size in range(0, len(whole), 7):
        file.write_bytes(whole[:size])
        run = only(file)
        for name, curve in run.curves.items():
            n = len(curve.values)
            np.testing.assert_array_equal(curve.values, full[0].curves[name].values[:n])
            seen.add(n)
        told = [p for p in run.problems if "ends in the middle of a record: the run was cut off" in p]
        assert len(told) == 1 or only_whole_records(whole, size)
    assert seen == {1, 2, 3, 4}


def only_whole_records(data: bytes, size: int) -> bool:
    at = 0
    while at < size:
        at += 16 + int.from_bytes(data[at : at + 8], "little")
    return at == size


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        (12 + 20, "1 damaged records are left out"),
        (1, "what comes after it cannot be read"),
    ],
)
def test_a_flipped_byte_in_an_event_file(tmp_path: Path, place: int, problem: str) -> None:
    file = event_file(tmp_path / "run")
    data = bytearray(file.read_bytes())
    target, at = data.rindex(b"curvature/loss"), 0
    while (end := at + 16 + int.from_bytes(data[at : at + 8], "little")) <= target:
        at = end
    data[at + place] ^= 0x10
    file.write_bytes(data)
    run = only(file)
    assert any(problem in told for told in run.problems)
    assert run.curves["curvature/loss"].values[:3].tolist() == [4.0, 1.0, 2.0]
    assert len(run.curves["curvature/loss"].values) == 3


def test_a_half_written_last_row(tmp_path: Path) -> None:
    file = logs.csv(tmp_path / "run") / "metrics.csv"
    text = file.read_text()
    for cut in (1, 3, len(text.splitlines()[-1]) - 3):
        file.write_bytes(text.rstrip().encode()[:-cut])
        run = only(file)
        assert run.curves["curvature/loss"].values.tolist() == [4.0, 1.0, 2.0]
        assert run.problems == ("metrics.csv: the last row is half-written and left out",)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a,b\n1,2\n", "there is no column 'step'"),
        ("", "there is no column 'step'"),
        ("step,curvature/loss\n", "there is no value in it"),
        ("step,train/loss\n1,2\n", "there is no metric of curvwatch in it"),
        ("step,curvature/loss\n1,2\n3\n4,5\n", "1 rows are left out"),
        ("step,curvature/loss\n1,2\n,3\nnan,4\n", "2 rows without a step"),
    ],
)
def test_a_strange_csv(tmp_path: Path, content: str, problem: str) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text(content)
    assert any(problem in told for told in only(file).problems)


def test_a_cut_wandb_file(tmp_path: Path) -> None:
    (file,) = logs.wandb(tmp_path, "run").glob("run-*.wandb")
    whole = file.read_bytes()
    lengths = set()
    for size in range(0, len(whole), 97):
        file.write_bytes(whole[:size])
        curves = only(file).curves
        lengths.add(len(curves["curvature/loss"].values) if curves else 0)
    assert lengths == {0, 1, 2, 3, 4}
    file.write_bytes(whole[:-5])
    assert any("ends in the middle of a record" in told for told in only(file).problems)
    middle = whole.index(b"curvature/loss")
    file.write_bytes(whole[:middle] + b"X" + whole[middle + 1 :])
    assert any("is damaged" in told for told in only(file).problems)
    file.write_bytes(b"something else")
    assert any("is no W&B run" in told for told in only(file).problems)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"curvwatch_history": 2}', '{"curvwatch_history": 1}']
)
def test_a_strange_history(tmp_path: Path, content: str) -> None:
    file = tmp_path / "a.curvwatch.json"
    file.write_text(content)
    run = only(file)
    assert run.curves == {}
    assert len(run.problems) == 1


def test_the_other_runs_are_still_read(tmp_path: Path) -> None:
    logs.csv(tmp_path / "good")
    file = event_file(tmp_path / "bad")
    file.write_bytes(b"\xff" * 500)
    (tmp_path / "empty").mkdir()
    runs, problems = read_runs([tmp_path, tmp_path / "empty", tmp_path / "gone\n"])
    assert [(run.name, bool(run.curves)) for run in runs] == [("bad", False), ("good", True)]
    assert "damaged at byte 0 of 500" in runs[0].problems[0]
    assert len(problems) == 2
    assert "no run in it (TensorBoard event files" in problems[0]
    assert problems[1].endswith("gone\\n: there is no such file or folder")


def test_a_log_that_cannot_be_read_leaves_the_other_of_the_folder(tmp_path: Path) -> None:
    file = event_file(tmp_path / "run")
    logs.csv(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "metrics.csv", tmp_path / "run")
    assert only(tmp_path / "run").kind == "tensorboard"
    file.write_bytes(b"")
    run = only(tmp_path / "run")
    assert (run.kind, len(run.curves)) == ("csv", len(logs.VALUES))
    assert "read from its csv log; the folder also has" in run.problems[-1]
