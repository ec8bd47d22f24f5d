"""`curvwatch demo`, made small."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from curvwatch import cli
from curvwatch.cli.demo.digits import RUNS
from curvwatch.cli.demo.table import ROWS, written
from curvwatch.measures import COST_METRICS, Sharpness, StepGeometry
from tests.support.once import made_once

STEPS, EVERY = 60, 20


class Demo(NamedTuple):
    directory: Path
    printed: str
    of_first_run: subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo run twice into one directory."""
    return made_once(tmp_path_factory, "demo", run_twice)


def run_twice(folder: Path) -> Demo:
    """The first time as a user does."""
    directory = folder / "demo"
    (directory / "mine").mkdir(parents=True)
    (directory / "mine" / "notes.txt").write_text("keep me")
    program = "import sys; from curvwatch.cli import main; sys.exit(main())"
    first = subprocess.run(
        [sys.executable, "-c", program, "demo", "--dir", directory, "--steps", "21"],
        capture_output=True,
        text=True,
        check=False,
    )
    output = io.StringIO()
    with redirect_stdout(output):
        assert cli.main(["demo", "--dir", str(directory), "--steps", str(STEPS)]) == 0
    return Demo(directory, output.getvalue(), first)


def scalars(folder: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values of each tag in the logs."""
    logs = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    logs.Reload()
    events = {tag: logs.Scalars(tag) for tag in logs.Tags()["scalars"]}
    return {tag: ([e.step for e in es], [e.value for e in es]) for tag, es in events.items()}


def cells(printed: str, label: str) -> list[str]:
    (line,) = re.findall(rf"^ *{re.escape(label)}  .*$", printed, flags=re.MULTILINE)
    return re.split(r" {2,}", line.strip())[1 : 1 + len(RUNS)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.metric)
def test_the_table_agrees_with_the_logs(demo: Demo, row) -> None:
    for name, cell in zip(RUNS, cells(demo.printed, row.label), strict=True):
        _, values = scalars(demo.directory / name)[row.metric]
        value = np.median(values[-row.readings :])
        # the logs are in float32
        near = {written(row, float(value) * factor) for factor in (1 - 1e-6, 1.0, 1 + 1e-6)}
        assert cell in near


@pytest.mark.parametrize("name", RUNS)
def test_every_metric_is_logged_at_the_same_steps(demo: Demo, name: str) -> None:
    logged = scalars(demo.directory / name)
    for metric in (*Sharpness.metrics, *COST_METRICS, *StepGeometry.metrics):
        assert logged[metric][0] == list(range(0, STEPS, EVERY)), metric


def test_the_runs_differ_in_their_optimizer_alone(demo: Demo) -> None:
    first = [scalars(demo.directory / name)["curvature/sharpness"][1][0] for name in RUNS]
    assert len(set(first)) == 1
    edges = [scalars(demo.directory / name)["curvature/effective_edge"][1][-1] for name in RUNS]
    assert edges == pytest.approx([2 / 0.2, 2 * 1.9 / 0.2, 38 / 1e-3])


def test_a_second_run_replaces_the_first_and_nothing_else(demo: Demo) -> None:
    assert demo.of_first_run.returncode == 0
    for name in RUNS:
        assert len(list((demo.directory / name).glob("events.out.tfevents.*"))) == 1
    assert (demo.directory / "mine" / "notes.txt").read_text() == "keep me"


def test_lightning_is_silent(demo: Demo) -> None:
    assert demo.of_first_run.stderr == ""
    assert "Trainer" not in demo.of_first_run.stdout
    assert "Tip" not in demo.of_first_run.stdout


def test_it_tells_how_to_open_the_dashboard(demo: Demo) -> None:
    (command,) = re.findall(r"^    (\S*tensorboard) --logdir (.*)$", demo.printed, flags=re.MULTILINE)
    assert command[1] == str(demo.directory)
    assert command[0] == "tensorboard" or Path(command[0]).exists()
    assert "#custom_scalars" in demo.printed


def test_a_folder_of_somebody_else_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("sgd", "adam"):
        (tmp_path / name).mkdir()
    (tmp_path / "sgd" / "made-by-curvwatch-demo").touch()
    (tmp_path / "sgd" / "old").touch()
    (tmp_path / "adam" / "weights.pt").touch()
    assert cli.main(["demo", "--dir", str(tmp_path)]) == 1
    assert f"{tmp_path / 'adam'} is in the way" in capsys.readouterr().err
    assert (tmp_path / "adam" / "weights.pt").exists()
    assert (tmp_path / "sgd" / "old").exists()


def test_missing_packages_are_named_with_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for module in ("sklearn", "tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(["demo", "--dir", str(tmp_path / "demo")]) == 1
    error = capsys.readouterr().err
    assert "`curvwatch demo` needs scikit-learn and tensorboard" in error
    assert "pip install 'curvwatch[demo]'" in error
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("steps", ["0", "-3", "many", "1.5"])
def test_bad_steps(steps: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_status:
        cli.main(["demo", "--steps", steps])
    assert exit_status.value.code == 2
    assert f"'{steps}': a positive whole number is needed" in capsys.readouterr().err
