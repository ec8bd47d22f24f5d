"""`curvwatch compare` in the terminal, from runs with known values."""

from __future__ import annotations

import io
import os
import re
import time
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from curvwatch import cli
from curvwatch.report.logs import read_runs
from curvwatch.report.summary import UserMetric, summarize
from curvwatch.report.terminal import print_comparison
from tests.report import logs

OTHER: logs.Values = {
    **logs.VALUES,
    "curvature/loss": [4.0, 3.0, 0.25, 0.5],
    "curvature/stability_ratio": [0.5, 0.5, 0.5, 1.0],
    "curvature/sharpness": [1.0] * 4,
}
LOST = {**OTHER, "curvature/loss": [4.0, 3.0, 0.25, logs.NAN]}
STUCK = {**OTHER, "curvature/loss": [4.0, 3.0, 0.25, 3.97]}
ROW = ["1.5", "1", "3", "67%", "10", "3", "-2", "1", "6%"]


def printed(
    *paths: Path, width: int = 120, metrics: tuple[UserMetric, ...] = (), colour: bool = False
) -> str:
    output = io.StringIO()
    system = "truecolor" if colour else None
    console = Console(
        file=output, width=width, highlight=False, force_terminal=colour, color_system=system
    )
    print_comparison(*read_runs(paths), console=console, metrics=metrics)
    return output.getvalue()


def cells(text: str, name: str) -> list[str]:
    (line,) = re.findall(rf"^{re.escape(name)} .*$", text, flags=re.MULTILINE)
    return line[len(name) :].split()


def test_the_numbers_of_a_run_from_each_kind_of_log(tmp_path: Path) -> None:
    logs.tensorboard(tmp_path / "tb")
    logs.csv(tmp_path / "csv")
    logs.history(tmp_path / "saved")
    logs.wandb(tmp_path, "wb")
    text = printed(tmp_path)
    for name in ("tb", "saved", "wb"):
        assert cells(text, name) == ROW
    assert cells(text, "csv") == [*ROW[:-2], "-", ROW[-1]]  # it has no place for alerts


def test_the_best_of_each_column_is_marked(tmp_path: Path) -> None:
    logs.history(tmp_path / "a")
    logs.history(tmp_path / "b", OTHER)
    text = printed(tmp_path)
    # first over the edge is best where it never is; equal ones are not marked
    # and sharpness is no merit
    assert cells(text, "a") == ["1.5", "1", "3", "67%", "10", "3", "-2", "1", "6%"]
    assert cells(text, "b") == ["0.5*", "0.25*", "1", "0%*", "never*", "3", "-2", "1", "6%"]
    assert "\x1b[1;32m0.25*" in printed(tmp_path, colour=True)


@pytest.mark.parametrize(("values", "last"), [(LOST, "nan"), (STUCK, "3.97")])
def test_a_run_whose_loss_did_not_fall_is_best_in_nothing(
    tmp_path: Path, values: logs.Values, last: str
) -> None:
    logs.history(tmp_path / "a")
    logs.history(tmp_path / "b", values)
    text = printed(tmp_path)
    assert cells(text, "a") == ["1.5*", "1*", "3", "67%*", "10*", "3", "-2", "1", "6%"]
    assert cells(text, "b") == [last, "0.25", "1", "0%", "never", "3", "-2", "1", "6%"]


def test_missing_values_are_dashes_and_never_zero(tmp_path: Path) -> None:
    logs.history(tmp_path / "a", {"train/loss": [3.0, 2.0]})
    logs.history(tmp_path / "b", {"curvature/loss": [logs.NAN] * 2, "curvature/cost_seconds": [1.5, 2]})
    text = printed(tmp_path)
    assert cells(text, "a") == ["-"] * 7 + ["1", "-"]
    assert cells(text, "b") == ["-"] * 7 + ["1", "3.5", "s"]
    assert "a: there is no metric of curvwatch in it" in text


def test_metrics_of_the_user(tmp_path: Path) -> None:
    logs.history(tmp_path / "a", {"train/loss": [6.0, 2.0, 4.0], "acc": [0.1, 0.9, 0.5]})
    logs.history(tmp_path / "b", {"train/loss": [6.0, 1.0, 5.0], "acc": [0.1, 0.8, 0.6]})
    text = printed(tmp_path, metrics=(UserMetric("train/loss"), UserMetric("acc", largest=True)))
    assert cells(text, "a")[:4] == ["4*", "2", "0.5", "0.9*"]
    assert cells(text, "b")[:4] == ["5", "1*", "0.6*", "0.8"]


def test_of_several_optimizers_the_worst_is_told(tmp_path: Path) -> None:
    nan = logs.NAN
    path = logs.history(
        tmp_path / "a",
        {
            "curvature/sharpness-SGD": [1.0, 2.0, 3.0],
            "curvature/sharpness-Adam": [5.0, 6.0, 7.0],
            "curvature/sharpness_stderr-Adam": [99.0] * 3,
            "curvature/stability_ratio-SGD": [0.5, 0.5, 2.0],
            "curvature/stability_ratio-Adam/pg1": [0.5, 3.0, nan],
            "step/gradient_correlation-SGD": [-3.0] * 3,
            "step/gradient_correlation-Adam": [-1.0] * 3,
            "curvature/loss-SGD": [1.0, 1.0, nan],
            "curvature/loss-Adam": [2.0, 2.0, 2.0],
        },
    )
    (run,), _ = read_runs([path])
    summary = summarize(run)
    assert (summary.sharpness, summary.gradient_correlation) == (6.0, -1.0)
    assert (summary.over_edge, summary.first_over) == (pytest.approx(2 / 3), 10)
    assert summary.best_loss == 2.0
    assert summary.final_loss != summary.final_loss


def test_sharpness_is_the_median_of_the_last_five_finite_readings(tmp_path: Path) -> None:
    sharpness = [100.0, 100.0, 1.0, 2.0, logs.NAN, 3.0, float("inf"), 9.0, 9.0]
    (run,), _ = read_runs([logs.history(tmp_path / "a", {"curvature/sharpness": sharpness})])
    assert summarize(run).sharpness == 3.0


NASTY = "a[bold red]b\x1b[31m\u202e<script>\x07"


def test_names_are_escaped(tmp_path: Path) -> None:
    logs.history(tmp_path / NASTY)
    logs.history(tmp_path / "b\nc", {"x\x1b[2J": [1.0]})
    text = printed(tmp_path, width=160, metrics=(UserMetric("x\x1b[2J"),))
    assert "a[bold red]b\\x1b[31m\\u202e<script>\\x07" in text.replace("\n", "")
    assert "b\\nc" in text
    assert not {"\x1b", "\x07", "\u202e"} & set(text)


def test_terminals_of_any_width_show_whole_numbers(tmp_path: Path) -> None:
    logs.history(tmp_path / "a-name-that-is-rather-long-as-names-of-runs-often-are")
    wide = {"curvature/sharpness": [123456.0] * 4, "step/gradient_correlation": [-0.0087654] * 4}
    logs.history(tmp_path / "b", {**LOST, **wide})
    tables = set()
    for width in range(20, 121, 4):
        text = printed(tmp_path, width=width)
        assert max(map(len, text.splitlines())) <= width
        assert len(re.findall(r"(^|\s)6%(\s|$)", text)) == 2
        if "─" in text:
            tables.add(width)
        for whole in ("0.25", "never", "123,456", "67%*", "nan", "-0.0088|-0.00877"):
            assert re.search(rf"(^|\s)({whole.replace('*', '[*]')})(\s|$)", text), (width, whole)
    assert tables == set(range(76, 121, 4))


# the command


def test_the_command_and_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs.csv(tmp_path / "a")
    logs.csv(tmp_path / "b")
    assert cli.main(["compare", str(tmp_path), str(tmp_path / "none"), "--metric", "y"]) == 0
    out = capsys.readouterr().out
    assert cells(out, "a")[:2] == ["-", "-"]
    assert "--metric y: no run has logged it" in out
    assert "none: there is no such file or folder" in " ".join(out.split())
    file = tmp_path / "report.html"
    for x in ("step", "time", "epoch"):
        assert cli.main(["compare", str(tmp_path), "-o", str(file), "--x", x]) == 0
        assert "<html" in file.read_text()
        file.unlink()
    assert cli.main(["compare", str(tmp_path), "-o", str(tmp_path / "no" / "folder" / "x")]) == 1
    assert "the report cannot be written" in capsys.readouterr().err


def test_nothing_that_can_be_read_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["compare", str(tmp_path)]) == 1
    assert "no run could be read" in capsys.readouterr().err
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    assert cli.main(["compare", str(tmp_path)]) == 1
    assert "there is no column 'step'" in capsys.readouterr().err


def test_fifty_runs_of_a_thousand_readings_are_read_faster_than_tensorboard_reads_five(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ratio of times of the processor, so that neither the machine nor its load counts."""
    names = [*logs.VALUES, "curvature/effective_sharpness", "curvature/effective_edge"]
    writer = SummaryWriter(tmp_path / "run0")
    for step in range(1000):
        for name in names:
            writer.add_scalar(name, step % 7, step * 10)
    writer.close()
    (file,) = (tmp_path / "run0").iterdir()
    for i in range(1, 50):
        (tmp_path / f"run{i}").mkdir()
        os.link(file, tmp_path / f"run{i}" / file.name)
    begin = time.process_time()
    read_runs([tmp_path])
    ours = time.process_time() - begin
    begin = time.process_time()
    for _ in range(5):
        EventAccumulator(str(tmp_path / "run0"), size_guidance={"scalars": 0}).Reload()
    assert ours < time.process_time() - begin
    assert cli.main(["compare", str(tmp_path)]) == 0
    assert len(re.findall(r"^run\d+ ", capsys.readouterr().out, flags=re.MULTILINE)) == 50
