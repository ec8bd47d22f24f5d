"""What the benchmark of alerts makes of made-up runs, and of twelve real ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import workloads
from benchmarks.alerts import detectors, report, table, tasks
from benchmarks.alerts.grid import COUNT, drawn, grid, small_grid
from benchmarks.alerts.label import label
from benchmarks.alerts.record import Record, is_untouched, recorded
from benchmarks.alerts.rescue import folder_of, rescued
from benchmarks.alerts.score import score
from curvwatch import Rule

CALM = np.linspace(2.0, 1.0, 200)


def record(loss: np.ndarray, **values: np.ndarray) -> Record:
    ones = np.ones(len(loss))
    return Record(grid(1)[0], np.asarray(loss, dtype=float), ones, ones, values)


def changed(at: slice, to: float) -> np.ndarray:
    loss = CALM.copy()
    loss[at] = to
    return loss


@pytest.mark.parametrize(
    ("loss", "fate", "fails", "doubles"),
    [
        (CALM, "healthy", None, None),
        (changed(slice(150, None), 99.0), "diverged", 150, 150),
        (changed(slice(150, None), np.nan), "diverged", 150, 150),
        (changed(slice(3, None), 5.0), "diverged", 3, 3),
        (changed(slice(150, 155), 99.0), "spiked", 150, 150),
        (changed(slice(185, 190), 3.9), "shaken", None, None),
        (np.full(200, 2.0), "stuck", None, None),
    ],
)
def test_fates(loss: np.ndarray, fate: str, fails: int | None, doubles: int | None) -> None:
    found = label(record(loss))
    assert (found.fate, found.doubles) == (fate, doubles)
    assert found.fails == fails or (fate == "diverged" and found.fails is not None)


def test_a_healthy_run_at_its_edge() -> None:
    ratios = np.full(200, np.nan)
    ratios[::10] = 0.9
    assert label(record(CALM, **{"curvature/stability_ratio": ratios})).fate == "edge"


def test_scores() -> None:
    lost, calm = record(changed(slice(150, None), 99.0)), record(CALM)
    runs = [(r, label(r)) for r in (lost, calm)]
    known = score(lambda r: [130, 160] if r is lost else [7], runs)
    assert (known.recall, known.foresight, known.leads, known.precision) == (1.0, 1.0, (20,), 2 / 3)
    assert known.false_per_1000 == 1000 / 200
    none = score(lambda r: [], runs)
    assert (none.recall, none.lead, none.false) == (0.0, (0.0, 0.0, 0.0), 0)
    at_last = score(lambda r: [150], runs)
    assert (at_last.recall, at_last.foresight) == (1.0, 0.0)
    assert score(lambda r: [151], runs).recall == 0.0  # when it is lost


def test_detectors() -> None:
    lost = record(changed(slice(150, None), 99.0))
    assert detectors.loss_spike(10)(lost) == [150]
    assert detectors.loss_spike(10)(record(CALM)) == detectors.check_finite(lost) == []
    assert detectors.check_finite(record(changed(slice(150, None), np.nan))) == [150]
    ratios = np.full(200, np.nan)
    ratios[::10] = np.arange(20)
    ruled = detectors.rules([Rule("r", "curvature/stability_ratio", above=4.5)])
    assert ruled(record(CALM, **{"curvature/stability_ratio": ratios})) == [50]
    assert detectors.rules([Rule("r", "train_loss", times_median=10)])(lost) == [150]


def test_the_grid_is_the_same_every_time_and_halved_by_seed() -> None:
    runs = grid()
    assert runs == grid()
    assert len(runs) == COUNT >= 120
    assert {(r.seed % 2, r.half) for r in runs} == {(0, "tuning"), (1, "held out")}
    for task, optimizer in (("gpt", "adam"), ("cnn", "sgd"), ("mlp", "rmsprop"), ("relu", "momentum")):
        assert any((r.task, r.optimizer) == (task, optimizer) for r in runs)


@pytest.fixture
def same_images(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The digits, also where Fashion-MNIST is installed: the runs are the same on every machine."""
    kept = (workloads._images, tasks._fashion)
    monkeypatch.setattr(workloads, "FASHION", Path("nowhere"))
    for images in kept:
        images.cache_clear()
    yield
    for images in kept:
        images.cache_clear()


@pytest.mark.usefixtures("same_images")
def test_of_a_run_that_diverges_the_default_preset_tells_before_and_of_a_calm_one_nothing(
    tmp_path: Path,
) -> None:
    runs = [(r, label(r)) for r in (recorded(drawn(s), landscape=False) for s in (20, 51))]
    assert [found.fate for _, found in runs] == ["diverged", "healthy"]
    found = score(table.DEFAULT, runs)
    assert (found.recall, found.foresight, found.false) == (1.0, 1.0, 0)
    report.write(tmp_path / "page.md", runs, tmp_path)
    assert "| **`default`** | 1.00 |" in (tmp_path / "page.md").read_text()


@pytest.mark.study
@pytest.mark.usefixtures("same_images")
def test_the_default_preset_keeps_its_word_on_twelve_runs(tmp_path: Path) -> None:
    runs = [(r, label(r)) for r in (recorded(c, landscape=False) for c in small_grid())]
    found = score(table.DEFAULT, runs)
    assert len(runs) == 12
    assert found.diverged >= 6
    assert found.calm_steps >= 500
    assert found.foresight >= report.TOLD
    assert found.false_per_1000 <= report.FALSE
    best = max(score(detectors.loss_spike(k), runs).foresight for k in (3, 5, 10))
    assert found.foresight > best

    # one of them, its learning rate lowered, does not diverge; and the page tells of all
    saved = rescued(drawn(21))
    assert label(saved).fate != "diverged"
    again = folder_of(tmp_path)
    again.mkdir()
    saved.save(again)
    report.write(tmp_path / "page.md", runs, tmp_path)
    page = (tmp_path / "page.md").read_text()
    assert f"| **`default`** | {found.foresight:.2f} |" in page
    assert "| of these, do not diverge with it | 1 (100%) |" in page


def test_a_monitor_leaves_the_runs_as_they_are() -> None:
    assert is_untouched(drawn(16))
