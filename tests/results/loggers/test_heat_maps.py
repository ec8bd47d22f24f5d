"""Heat maps of a run: where its distributions and layers go, and that they are those that were read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from curvwatch import CurvatureMonitor, History
from curvwatch.charts import DENSITY, is_density, whole_densities
from curvwatch.charts.heat_figures import _densities
from curvwatch.charts.heat_maps import density_map
from curvwatch.charts.histogram import Histogram
from curvwatch.measures import Landscape, LandscapeMeasure, Reading, SpectralDensity
from curvwatch.report.logs.read import read_runs
from tests.results.loggers.test_dashboards import read
from tests.support.modules import Classifier, batches, fit, told

EDGES = np.array([-1.0, 0.0, 1.0, 3.0])
LAYERS = ("net.0", "net.3")


def weights_at(i: int) -> np.ndarray:
    return np.array([0.25, 0.5 - 0.1 * i, 0.25 + 0.1 * i])


class Known(LandscapeMeasure):
    """Distributions and layers with known values, other ones at each reading."""

    name = "known"
    metrics = ("curvature/trace",)

    def metrics_of(self, module: nn.Module, params: Sequence[Tensor]) -> tuple[str, ...]:
        of_each = (f"curvature/layer/{n}/{what}" for n in LAYERS for what in ("sharpness", "share"))
        return (*self.metrics, *of_each)

    def read(self, at: Landscape) -> Reading:
        i = at.memory["reading"] = at.memory.get("reading", -1) + 1
        values = {"curvature/trace": float(i)}
        for depth, name in enumerate(LAYERS):
            values[f"curvature/layer/{name}/sharpness"] = 1.0 + i + 10.0 * depth
            values[f"curvature/layer/{name}/share"] = math.nan if i == 1 else 0.5 - depth
        histograms = {DENSITY: Histogram(EDGES, weights_at(i))}
        for name in LAYERS:
            histograms[f"curvature/layer/{name}/density"] = Histogram(EDGES + i, weights_at(0))
        return Reading(values, histograms=histograms)


def monitor(measure: Any = None) -> CurvatureMonitor:
    return CurvatureMonitor([measure or Known()], every_n_steps=2, on_error="raise")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[CurvatureMonitor, Path]:
    logger = TensorBoardLogger(tmp_path_factory.mktemp("logs"))
    watched = monitor()
    fit(Classifier(), watched, logger=logger)
    return watched, Path(logger.log_dir)


def test_the_history_has_what_was_read(run: Any) -> None:
    density = run[0].history.densities[DENSITY]
    assert density.steps.tolist() == [0, 2, 4]
    for i, histogram in enumerate(density.histograms):
        np.testing.assert_array_equal(histogram.edges, EDGES)
        np.testing.assert_array_equal(histogram.weights, weights_at(i))


def test_what_tensorboard_and_a_file_keep_is_what_was_read(run: Any, tmp_path: Path) -> None:
    watched, folder = run
    watched.history.save(tmp_path / "saved")
    runs, problems = read_runs([folder, tmp_path])
    assert problems == []
    assert [r.kind for r in runs] == ["tensorboard", "history"]
    for logged in runs:
        assert set(logged.densities) == set(watched.history.densities)
        for name, expected in watched.history.densities.items():
            found = logged.densities[name]
            np.testing.assert_array_equal(found.steps, expected.steps)
            for ours, theirs in zip(found.histograms, expected.histograms, strict=True):
                np.testing.assert_array_equal(ours.edges, theirs.edges)
                np.testing.assert_array_equal(ours.weights, theirs.weights)
    times = runs[0].densities[DENSITY].times
    assert 0 <= times[0] < times[-1] < 60
    assert runs[0].densities[DENSITY].epochs.tolist() == [0, 0, 0]


def test_the_figures_are_logged_beside_the_story(run: Any) -> None:
    events = read(run[1])
    assert sorted(events.Tags()["images"]) == [
        "curvwatch/density",
        "curvwatch/layer_densities",
        "curvwatch/layers",
        "curvwatch/run",
    ]
    (image,) = events.Images("curvwatch/density")
    assert image.step == 4
    assert len(image.encoded_image_string) > 5000


@pytest.fixture
def quick_story(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "curvwatch.charts.run_figures.story_pixels", lambda *_: np.zeros((2, 2, 3), np.uint8)
    )


@pytest.mark.usefixtures("quick_story")
def test_a_run_without_such_a_measure_has_no_figure_of_it(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    watched = CurvatureMonitor(every_n_steps=2)
    with told() as texts:
        fit(Classifier(), watched, logger=logger)
    assert texts == []
    assert read(logger.log_dir).Tags()["images"] == ["curvwatch/run"]
    with pytest.raises(KeyError, match=r"no density was read: .*'spectral_density'"):
        watched.history.plot_density()
    with pytest.raises(KeyError, match=r"no layer was read: .*'layer_curvature'"):
        watched.history.plot_layers()


@pytest.mark.usefixtures("quick_story")
def test_a_heat_map_that_cannot_be_drawn_is_told_and_the_story_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise ValueError("no colours")

    monkeypatch.setattr("curvwatch.charts.heat_figures.heat_map_pixels", fails)
    logger = TensorBoardLogger(tmp_path)
    with told() as texts:
        fit(Classifier(), CurvatureMonitor(every_n_steps=2), logger=logger)
    assert texts == ["curvwatch: drawing heat maps to TensorBoardLogger failed: ValueError: no colours"]
    assert read(logger.log_dir).Tags()["images"] == ["curvwatch/run"]


def test_a_resumed_run_goes_on_with_its_distributions(tmp_path: Path) -> None:
    whole = monitor()
    three = {"data": batches(12)}  # steps an epoch
    fit(Classifier(), whole, max_steps=6, **three)
    first = monitor()
    trainer = fit(Classifier(), first, max_steps=3, **three)
    path = tmp_path / "half.ckpt"
    trainer.save_checkpoint(path)
    torch.load(path, weights_only=True)
    again = monitor()
    fit(Classifier(), again, max_steps=6, ckpt_path=path, **three)
    assert again.history.densities.to_dict() == whole.history.densities.to_dict()


# the figures of a history


def mesh_of(axes: Any) -> np.ndarray:
    """The cells that a figure shows, nan where it shows none."""
    (mesh,) = axes.collections
    return np.ma.filled(np.ma.masked_invalid(mesh.get_array()), np.nan)


def test_the_density_that_is_drawn_is_the_one_that_was_read(run: Any) -> None:
    history = run[0].history
    axes = history.plot_density().axes[0]
    expected = density_map(history.densities[DENSITY].histograms, rows=256, columns=200).cells
    np.testing.assert_array_equal(mesh_of(axes), expected)
    # in closed form: mass / width of the bin that is there
    np.testing.assert_allclose(mesh_of(axes)[[10, 100, 200], 1], weights_at(1) / [1, 1, 2])
    assert axes.get_xlim() == (-1.0, 5.0)
    assert axes.get_ylim() == (-1.0, 3.0)
    assert axes.get_title() == "Density of the eigenvalues of the Hessian"
    of_layer = history.plot_density("curvature/layer/net.3/density").axes[0]
    assert of_layer.get_title() == "Density of the eigenvalues of net.3"
    with pytest.raises(KeyError, match=r"no density 'x' was read; there are 'curvature/density'"):
        history.plot_density("x")


def test_the_layers_that_are_drawn_are_those_that_were_read(run: Any) -> None:
    history = run[0].history
    axes = history.plot_layers().axes[0]
    np.testing.assert_array_equal(mesh_of(axes), [[11.0, 12.0, 13.0], [1.0, 2.0, 3.0]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["net.3", "net.0"]
    shares = mesh_of(history.plot_layers("share").axes[0])
    np.testing.assert_array_equal(shares, [[-0.5, math.nan, -0.5], [0.5, math.nan, 0.5]])
    with pytest.raises(KeyError, match="no layer has 'x'; layers have share, sharpness"):
        history.plot_layers("x")


def test_layers_of_steps_and_of_several_optimizers() -> None:
    history = History()
    for step in (0, 5):
        history.record(
            step, {"step/layer/a/gradient_norm": 1.0, "step/layer/b/gradient_norm-Adam": 9.0}
        )
    axes = history.plot_layers("gradient_norm").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b (Adam)", "a"]


def test_outliers_far_away_turn_the_axis_to_powers_of_ten() -> None:
    history = History()
    edges = np.array([-0.1, 0.0, 0.1, 99.9, 100.0])
    far = {DENSITY + "-$x$": Histogram(edges, np.array([0.5, 0.499, 0.0, 0.001]))}
    history.record(0, {"curvature/trace": 1.0}, far)
    axes = history.plot_density(DENSITY + "-$x$").axes[0]
    assert axes.get_yscale() == "asinh"
    assert axes.get_ylim() == (-0.1, 100.0)


def test_densities_of_all_measures_have_names_that_heat_maps_know() -> None:
    measures = ["spectral_density", SpectralDensity(of="preconditioned"), "layer_curvature"]
    watched = CurvatureMonitor([*measures, "gauss_newton"], every_n_steps=2, on_error="raise")
    fit(Classifier(), watched, max_steps=1)
    names = list(watched.history.densities)
    assert len(names) == 3 + len(LAYERS)
    assert all(map(is_density, names))
    figure = _densities(watched.history, whole_densities(names))
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes[:3]] == [
        "Density of the eigenvalues of the Hessian",
        "Density of the eigenvalues of Gauss-Newton",
        "Density of the eigenvalues of the preconditioned Hessian",
    ]
