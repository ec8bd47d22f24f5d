"""Distributions that a measure reads go to TensorBoard and W&B; other loggers get the scalars."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from curvwatch import CurvatureMonitor
from curvwatch.charts.histogram import Histogram
from curvwatch.measures import Landscape, LandscapeMeasure, Reading
from curvwatch.report.logs.read import read_runs
from tests.support.modules import Classifier, ListLogger, fit

EDGES, WEIGHTS = np.array([-1.0, 0.0, 1.0, 3.0]), np.array([0.25, 0.5, 0.25])


class Density(LandscapeMeasure):
    """A density that does not change."""

    name = "density"
    metrics = ("curvature/mean",)

    def read(self, at: Landscape) -> Reading:
        histogram = Histogram(EDGES, WEIGHTS)
        return Reading({"curvature/mean": 0.625}, histograms={"curvature/density": histogram})


def monitor() -> CurvatureMonitor:
    return CurvatureMonitor([Density()], every_n_steps=2, on_error="raise")


def test_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorBoardLogger(tmp_path)
    fit(Classifier(), monitor(), logger=logger)
    read = accumulator.EventAccumulator(logger.log_dir, size_guidance={"histograms": 0}).Reload()
    events = read.Histograms("curvature/density")
    assert [event.step for event in events] == [0, 2, 4]
    value = events[0].histogram_value
    assert list(value.bucket_limit) == [0.0, 1.0, 3.0]
    assert list(value.bucket) == WEIGHTS.tolist()
    assert (value.min, value.max, value.num, value.sum) == (-1.0, 3.0, 1.0, 0.625)


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    fit(Classifier(), monitor(), logger=logger)
    wandb.finish()
    wandb.teardown()  # the file is whole only then
    (file,) = tmp_path.rglob("*.wandb")
    written = file.read_bytes()
    assert written.count(b"[0.25,0.5,0.25]") >= 3
    assert b"[-1,0,1,3]" in written
    assert b"curvature/density" in written
    images = [p for p in tmp_path.rglob("*.png") if p.parent.name == "curvwatch"]
    assert len(images) == 2  # the story, and the heat map
    (run,), _ = read_runs([tmp_path])
    density = run.densities["curvature/density"]
    assert density.steps.tolist() == [0, 2, 4]
    np.testing.assert_array_equal(density.histograms[-1].edges, EDGES)
    np.testing.assert_array_equal(density.histograms[-1].weights, WEIGHTS)


def test_other_loggers_get_the_scalars() -> None:
    logger = ListLogger()
    fit(Classifier(), monitor(), logger=logger)
    assert logger.values("curvature/mean") == [0.625] * 3
    assert logger.values("curvature/density") == []


def test_edges_and_weights_must_fit() -> None:
    with pytest.raises(ValueError, match="3 edges and 3 weights"):
        Histogram(EDGES[:3], WEIGHTS)
