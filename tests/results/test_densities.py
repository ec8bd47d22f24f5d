"""Distributions over a run: what is kept of them, in memory, in files and in checkpoints."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from curvwatch import History
from curvwatch.charts.histogram import Histogram
from curvwatch.errors import CurvwatchError
from curvwatch.results.densities import FEWEST, MOST, NUMBERS, Densities

EVEN = np.linspace(-1.0, 2.0, 5)
ODD = np.array([-1.0, 0.1, 1 / 3, 7.0])


def reading(i: int) -> Histogram:
    """One whose weights tell which it is; bins of two kinds take turns."""
    edges = ODD if i % 2 else EVEN + i
    return Histogram(edges, np.linspace(0.1, 1.0, len(edges) - 1) * (i + 1))


def kept(count: int) -> Densities:
    densities = Densities()
    for i in range(count):
        densities.record(10 * i, {"curvature/density": reading(i)})
    return densities


def assert_same(ours: Densities, theirs: Densities) -> None:
    assert list(ours) == list(theirs)
    for name in ours:
        assert ours[name].steps.tolist() == theirs[name].steps.tolist()
        for a, b in zip(ours[name].histograms, theirs[name].histograms, strict=True):
            assert a.edges.tobytes() == b.edges.tobytes()
            assert a.weights.tobytes() == b.weights.tobytes()
    assert ours.to_dict() == theirs.to_dict()


@pytest.mark.parametrize(
    ("count", "stride"), [(1, 1), (MOST, 1), (MOST + 1, 2), (2 * MOST, 4), (1000, 8), (1001, 8)]
)
def test_of_many_readings_every_second_is_dropped_again_and_again(count: int, stride: int) -> None:
    density = kept(count)["curvature/density"]
    on_grid = list(range(0, count, stride))
    expected = on_grid if on_grid[-1] == count - 1 else [*on_grid, count - 1]
    assert density.steps.tolist() == [10 * i for i in expected]
    assert len(expected) <= MOST
    for i, histogram in zip(expected, density.histograms, strict=True):
        np.testing.assert_array_equal(histogram.edges, reading(i).edges)
        np.testing.assert_array_equal(histogram.weights, reading(i).weights)


def test_many_layers_share_what_may_be_kept() -> None:
    densities, bins = Densities(), 256
    names = [f"curvature/layer/{i}/density" for i in range(100)]
    histogram = Histogram(np.arange(bins + 1.0), np.ones(bins))
    for step in range(90):
        densities.record(step, dict.fromkeys(names, histogram))
    counts = {len(densities[name].steps) for name in names}
    assert len(counts) == 1
    most = NUMBERS // (100 * (2 * bins + 1))
    assert FEWEST <= most < MOST
    assert most / 2 < max(counts) <= most


def test_what_is_not_finite_is_left_out_and_arrays_are_copied() -> None:
    densities, weights = Densities(), np.ones(4)
    densities.record(0, {"a": Histogram(EVEN, weights), "b": Histogram(EVEN, weights * np.nan)})
    weights[:] = 7.0
    assert list(densities) == ["a"]
    assert densities["a"].histograms[0].weights.tolist() == [1.0] * 4
    with pytest.raises(KeyError, match="no distribution 'b' was read; there are readings of a"):
        densities["b"]


@pytest.mark.parametrize("count", [3, MOST + 2])
def test_a_checkpoint_goes_on_as_if_nothing_had_happened(count: int) -> None:
    first = kept(count)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    again = Densities()
    again.load_state_dict(torch.load(file, weights_only=True))
    assert_same(again, first)
    for densities in (first, again):
        for i in range(count, count + 300):
            densities.record(10 * i, {"curvature/density": reading(i)})
    assert_same(again, first)
    assert_same(first, kept(count + 300))


@pytest.mark.parametrize("count", [0, 3, MOST + 2])
def test_a_file_keeps_every_bit(tmp_path: Path, count: int) -> None:
    history = History()
    for i in range(count):
        history.record(10 * i, {"curvature/loss": 1.0}, {"curvature/density": reading(i)})
    again = History.load(history.save(tmp_path / "run"))
    assert_same(again.densities, history.densities)
    assert list(again.densities) == (["curvature/density"] if count else [])
    # of even bins two edges are written
    content = json.loads((tmp_path / "run.curvwatch.json").read_text())
    for of in content["densities"].values():
        assert {len(edges) for edges in of["edges"]} == {2, 4}


def test_a_file_of_version_1_is_read(tmp_path: Path) -> None:
    history = History()
    history.record(3, {"curvature/loss": 1.5})
    path = history.save(tmp_path / "run")
    content = json.loads(path.read_text())
    assert content["curvwatch_history"] == 2
    del content["densities"]
    path.write_text(json.dumps({**content, "curvwatch_history": 1}))
    again = History.load(path)
    assert again.to_dict() == history.to_dict()
    assert len(again.densities) == 0
    path.write_text(json.dumps(content))
    with pytest.raises(CurvwatchError, match="damaged"):
        History.load(path)


@pytest.mark.parametrize("change", [{"steps": []}, {"edges": [[0, 1, 2]]}, {"weights": [None]}])
def test_damaged_distributions_are_told(tmp_path: Path, change: dict[str, object]) -> None:
    history = History()
    history.record(0, {"a": 1.0}, {"curvature/density": reading(1)})
    path = history.save(tmp_path / "run")
    content = json.loads(path.read_text())
    content["densities"]["curvature/density"].update(change)
    path.write_text(json.dumps(content))
    with pytest.raises(CurvwatchError, match="is damaged"):
        History.load(path)


def test_an_older_checkpoint_has_no_distributions() -> None:
    history = History()
    history.record(0, {"a": 1.0}, {"curvature/density": reading(1)})
    state = history.state_dict()
    del state["densities"]
    history.load_state_dict(state)
    assert len(history.densities) == 0
