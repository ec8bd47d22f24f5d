"""Each kind of log gives the curves that were logged."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from curvwatch.report.logs import LoggedAlert, LoggedRun, read_runs
from tests.report import logs

TOLD = LoggedAlert(logs.ALERT.step, logs.ALERT.rule, logs.ALERT.text)


def only(path: Path) -> LoggedRun:
    (run,), problems = read_runs([path])
    assert problems == []
    return run


def check_values(run: LoggedRun, *, epochs: bool) -> None:
    assert set(run.curves) == set(logs.VALUES)
    for name, values in logs.VALUES.items():
        curve = run.curves[name]
        np.testing.assert_array_equal(curve.steps, [0, 10, 20, 30])
        np.testing.assert_array_equal(curve.values, values)
        expected = [0, 0, 1, 1] if epochs else [math.nan] * 4
        np.testing.assert_array_equal(curve.epochs, expected)
        assert (curve.steps.dtype, curve.values.dtype) == (np.int64, np.float64)


def test_tensorboard(tmp_path: Path) -> None:
    run = only(logs.tensorboard(tmp_path / "run"))
    check_values(run, epochs=True)
    assert (run.kind, run.problems, run.alerts) == ("tensorboard", (), (TOLD,))
    assert run.hyperparameters == {"lr": 0.1, "opt/name": "adam"}
    times = run.curves["curvature/loss"].times
    assert 0 <= times[0] <= times[-1] < 60


def test_alerts_of_tensorboard_may_be_a_growing_table(tmp_path: Path) -> None:
    writer = SummaryWriter(tmp_path / "run")
    head = "| step | rule | metric | value | meaning |\n|---:|---|---|---:|---|\n"
    first = r"| 20 | not\_finite | a | nan | 1 &lt; 2 \| \\ &amp; \*x\* |"
    writer.add_text("curvwatch/alerts", head + first, 20)
    writer.add_text("curvwatch/alerts", f"{head}{first}\n| 30 | b | c | 1 | d |", 30)
    writer.add_scalar("curvature/loss", 1.0, 0)
    writer.close()
    run = only(tmp_path / "run")
    assert run.alerts == (
        LoggedAlert(20, "not_finite", r"1 < 2 | \ & *x*"),
        LoggedAlert(30, "b", "d"),
    )


def test_csv(tmp_path: Path) -> None:
    run = only(logs.csv(tmp_path / "run"))
    check_values(run, epochs=True)
    assert (run.kind, run.problems, run.alerts) == ("csv", (), ())
    assert run.hyperparameters == {"lr": 0.1, "opt/name": "adam"}
    assert np.isnan(run.curves["curvature/loss"].times).all()


def test_wandb(tmp_path: Path) -> None:
    run = only(logs.wandb(tmp_path, "my [red] run"))
    check_values(run, epochs=True)
    assert (run.kind, run.problems, run.alerts) == ("wandb", (), (TOLD,))
    assert run.name == "my [red] run"
    assert run.hyperparameters == {"lr": 0.1, "opt/name": "adam"}
    times = run.curves["curvature/loss"].times
    assert times[0] == 0
    assert 0 <= times[-1] < 60


def test_history(tmp_path: Path) -> None:
    run = only(logs.history(tmp_path / "sgd"))
    check_values(run, epochs=False)
    assert (run.name, run.kind, run.problems, run.alerts) == ("sgd", "history", (), (TOLD,))


def test_a_column_with_gaps_and_a_metric_of_the_user(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    table = ["step,curvature/loss,val,epoch", "0,1,,0", "5,,0.5,1", "6,nan,,", "7,2,x,", ""]
    (folder / "metrics.csv").write_text("\n".join(table))
    run = only(folder)
    np.testing.assert_array_equal(run.curves["curvature/loss"].steps, [0, 6, 7])
    np.testing.assert_array_equal(run.curves["curvature/loss"].values, [1, math.nan, 2])
    np.testing.assert_array_equal(run.curves["curvature/loss"].epochs, [0, 1, 1])
    np.testing.assert_array_equal(run.curves["val"].values, [0.5])
    assert run.problems == ("metrics.csv: 1 cells of 'val' hold no number",)


def test_event_files_of_a_resumed_run_are_joined_and_later_values_win(tmp_path: Path) -> None:
    for begin, shift in ((0, 0.0), (20, 100.0)):
        writer = SummaryWriter(tmp_path / "run")
        for step in range(begin, begin + 30, 5):
            writer.add_scalar("curvature/loss", step + shift, step)
        writer.close()
    # by the time of the first event, whatever the files are called
    first, second = sorted((tmp_path / "run").iterdir())
    first.rename(first.with_name("z.tfevents"))
    second.rename(second.with_name("a.tfevents"))
    run = only(tmp_path / "run")
    curve = run.curves["curvature/loss"]
    np.testing.assert_array_equal(curve.steps, range(0, 50, 5))
    np.testing.assert_array_equal(curve.values, [0, 5, 10, 15, 120, 125, 130, 135, 140, 145])
    assert run.problems == ("2 event files have 2 steps twice: later values are taken",)


def test_all_that_tensorboard_writes_beside_scalars(tmp_path: Path) -> None:
    writer = SummaryWriter(tmp_path / "run")
    writer.add_hparams({"lr": 0.5, "name": "x"}, {"hparam/loss": 1.0})
    writer.add_text("notes", "hello")
    for step in (0, 1, 127, 128, 2**31, 2**40):  # steps of 0, 1, 2, 5 and 6 bytes
        writer.add_scalar("curvature/loss", step / 2, step)
        writer.add_scalar("curvature/lass", -step, step)  # same length
        writer.add_scalar("new", step, step, new_style=True)
        writer.add_histogram("h", np.arange(9.0), step)
    writer.add_scalar("x" * 700, 3.0, 1)
    writer.close()
    run = only(tmp_path / "run")
    assert run.name == "run"
    steps = [0, 1, 127, 128, 2**31, 2**40]
    for name, factor in (("curvature/loss", 0.5), ("curvature/lass", -1), ("new", 1)):
        np.testing.assert_array_equal(run.curves[name].steps, steps)
        np.testing.assert_allclose(run.curves[name].values, np.multiply(steps, factor), rtol=1e-7)
    assert run.curves["x" * 700].values == [3.0]
    assert run.hyperparameters == {"lr": 0.5, "name": "x"}
    assert run.problems == ()


@pytest.mark.parametrize("text", ["a: !!python/tuple [1, 2]\n", "a: !unknown [1, 2]\n"])
def test_hyperparameters_that_are_objects_of_python(tmp_path: Path, text: str) -> None:
    folder = logs.csv(tmp_path / "run")
    (folder / "hparams.yaml").write_text(text)
    assert only(folder).hyperparameters == {"a": [1, 2]}
