"""Where runs are found, and what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from curvwatch.report.logs import read_runs, short_names
from tests.report import logs


def test_runs_of_all_kinds_are_found_below_a_folder(tmp_path: Path) -> None:
    logs.tensorboard(tmp_path / "tb" / "lightning_logs" / "version_0")
    logs.csv(tmp_path / "csv" / "version_10")
    logs.csv(tmp_path / "csv" / "version_9")
    logs.history(tmp_path / "saved" / "adam")
    logs.history(tmp_path / "saved" / "sgd")
    logs.wandb(tmp_path / "w", "named")
    runs, problems = read_runs([tmp_path])
    assert problems == []
    assert [(run.name, run.kind) for run in runs] == [
        ("csv/version_9", "csv"),
        ("csv/version_10", "csv"),
        ("saved/adam", "history"),
        ("saved/sgd", "history"),
        ("tb/lightning_logs/version_0", "tensorboard"),
        ("named", "wandb"),
    ]


def test_a_run_that_is_given_twice_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs.csv(tmp_path / "a")
    logs.csv(tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    runs, _ = read_runs([tmp_path / "a", Path(), Path("a")])
    assert [run.name for run in runs] == ["a", "b"]


def test_several_logs_in_one_folder_are_one_run(tmp_path: Path) -> None:
    logs.tensorboard(tmp_path / "version_0")
    logs.history(tmp_path / "version_0" / "monitor")
    (logs.csv(tmp_path / "other") / "metrics.csv").rename(tmp_path / "version_0" / "metrics.csv")
    (run,), _ = read_runs([tmp_path])
    assert run.kind == "tensorboard"
    assert run.problems == (
        "read from its tensorboard log; the folder also has metrics.csv (csv), "
        "monitor.curvwatch.json (history)",
    )


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/r/sgd/logs/version_0", "/r/adam/logs/version_0"], ["sgd", "adam"]),
        (["/r/sgd/version_0", "/r/sgd/version_1"], ["version_0", "version_1"]),
        (["/r/a", "/r/a/b"], ["a", "a/b"]),
        (["/r/a", "/r/a.curvwatch.json"], ["a", "a (2)"]),
        (["/r/x/version_3"], ["version_3"]),
        (["/r/a", "/s/a"], ["r", "s"]),
        ([], []),
    ],
)
def test_names_are_short_and_unique(paths: list[str], names: list[str]) -> None:
    assert short_names([Path(path) for path in paths]) == names


def test_wandb_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    logs.wandb(tmp_path / "a", "same")
    logs.wandb(tmp_path / "b", "same")
    runs, _ = read_runs([tmp_path])
    assert len({run.name for run in runs}) == 2
    assert all(run.name.startswith("same (") for run in runs)
