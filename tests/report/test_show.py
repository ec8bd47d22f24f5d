"""`curvwatch show`, once and while a run goes on."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from curvwatch import cli
from curvwatch.report.terminal import follow, show
from curvwatch.report.terminal import run_view as module
from tests.report import logs


def console(width: int = 80, *, live: bool = False, encoding: str = "utf-8") -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    return Console(file=file, width=width, height=60, highlight=False, force_terminal=live)


def text(of: Console) -> str:
    of.file.seek(0)
    return of.file.read()


def test_latest_values_charts_and_alerts(tmp_path: Path) -> None:
    at = console()
    show(logs.tensorboard(tmp_path / "run"), console=at)
    out = text(at)
    assert "1.5  loss on the probe at step 30" in out
    assert "2  stability ratio (1 is the edge) at step 30" in out
    assert "-  gradient correlation at step 30" in out
    assert "directional sharpness of the step (log axis)" in out
    assert "⠉" in out
    assert "1 alerts" in out
    assert "step 20, divergence: steps overshoot <b>[red]" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("width", [30, 80, 100, 160])
def test_charts_fit_the_terminal(tmp_path: Path, width: int) -> None:
    at = console(width)
    show(logs.history(tmp_path / "run"), console=at)
    lines = text(at).splitlines()
    assert max(map(len, lines)) <= width
    ratios = [line for line in lines if line.count("┌") == 2]
    assert bool(ratios) == (width >= 100)


def test_a_terminal_without_unicode(tmp_path: Path) -> None:
    at = console(encoding="ascii")
    show(logs.history(tmp_path / "run"), console=at)
    assert "stability ratio" in text(at)


@pytest.mark.parametrize(
    "values",
    [[1.0], [0.0, 0.0], [logs.NAN, 1e-300], [1e300, -1e300], [float("inf"), 1.0], list(range(9000))],
)
def test_values_that_are_hard_to_draw(tmp_path: Path, values: list[float]) -> None:
    at = console()
    named = dict.fromkeys(("curvature/loss", "curvature/effective_edge", "mine"), values)
    show(logs.history(tmp_path / "run", named), console=at)
    assert "loss on the probe" in text(at)


def test_a_run_without_metrics_of_curvwatch_shows_its_own(tmp_path: Path) -> None:
    at = console()
    show(logs.csv(tmp_path / "run", {"val/x\x1b[2J": [1.0, 2.0]}), console=at)
    assert "val/x\\x1b[2J" in text(at)
    assert "there is no metric of curvwatch in it" in text(at)


def test_one_run_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", str(tmp_path)]) == 1
    assert "no run in it" in capsys.readouterr().err
    logs.csv(tmp_path / "a")
    assert cli.main(["show", str(tmp_path)]) == 0
    logs.csv(tmp_path / "b")
    assert cli.main(["show", str(tmp_path)]) == 1
    assert "has 2 runs; name one" in capsys.readouterr().err
    (tmp_path / "a" / "metrics.csv").write_text("x\n")
    assert cli.main(["show", str(tmp_path / "a")]) == 1
    assert "no column 'step'" in capsys.readouterr().err


def test_following_a_run_from_before_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    real = module.read_run
    monkeypatch.setattr(module, "read_run", lambda *args: reads.append(1) or real(*args))
    at = console(live=True)
    folder = tmp_path / "run"
    seen: list[tuple[str, int]] = []
    writer: list[SummaryWriter] = []

    def wait(seconds: float) -> None:
        assert seconds == 0.5
        seen.append((text(at), len(reads)))
        turn = len(seen)
        if turn == 1:
            folder.mkdir()
        elif turn == 2:
            writer.append(SummaryWriter(folder))
        elif turn in (3, 4):
            writer[0].add_scalar("curvature/loss", turn, turn * 100)
            writer[0].flush()
        elif turn == 6:
            writer[0].close()
            raise KeyboardInterrupt

    follow(folder, console=at, wait=wait, every=0.5)
    texts, counts = zip(*seen, strict=True)
    assert "Ctrl-C ends" in texts[2]
    assert "3  " not in texts[2]
    assert "at step 300" in texts[3]
    assert "at step 400" not in texts[3]
    assert "at step 400" in texts[4]
    assert counts[5] == counts[4]  # nothing changed, so nothing is read


def test_the_command_ends_with_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(follow, "__kwdefaults__", {**follow.__kwdefaults__, "wait": interrupt})
    assert cli.main(["show", str(logs.csv(tmp_path / "run")), "--follow"]) == 0
