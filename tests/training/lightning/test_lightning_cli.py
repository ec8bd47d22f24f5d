"""The monitor from a LightningCLI's command line and from YAML, in both namespaces."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning

from curvwatch import Compared, CurvatureMonitor, Rule, Sharpness, StepGeometry
from curvwatch.measures.presets import PRESETS
from curvwatch.results.alerts import DEFAULT_RULES
from tests.support.modules import ClassifierMixin, batches
from tests.support.studies import only

CALLBACKS = "--trainer.callbacks"
YAML = """
trainer:
  callbacks:
    - class_path: curvwatch.CurvatureMonitor
      init_args:
        measures:
          - class_path: curvwatch.Sharpness
            init_args: {rtol: 1.0e-4, every_n_steps: 3}
          - step_geometry
        every_n_steps: 2
        probe: current
        rules:
          - {name: sharp, metric: curvature/sharpness, above: 500., for_readings: 2, meaning: too sharp}
        on_alert: stop
"""
PLAIN = "trainer: {callbacks: [{class_path: curvwatch.CurvatureMonitor}]}"


PRESET = """
trainer:
  callbacks:
    - class_path: curvwatch.CurvatureMonitor.preset
      init_args: {which: study, every_n_steps: 3, name: mine}
"""


Fitted = Callable[..., CurvatureMonitor]


NAMESPACES = [lightning.pytorch, pytorch_lightning]
# both have the same command line; that either knows the class and reads YAML is tested of both
of_one_namespace = pytest.mark.parametrize(
    "fitted",
    only(NAMESPACES, take=[lightning.pytorch]),
    indirect=True,
    ids=lambda pl: pl.__name__,
)


@pytest.fixture(params=NAMESPACES, ids=lambda pl: pl.__name__)
def fitted(request: Any, tmp_path: Path, monkeypatch: Any) -> Fitted:
    """The monitor of `main.py fit *args`, after the run."""
    # what Lightning calls is deprecated there
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    return partial(run, request.param, tmp_path, monkeypatch)


def run(pl: Any, folder: Path, monkeypatch: Any, *args: str) -> CurvatureMonitor:

    class Model(ClassifierMixin, pl.LightningModule):
        def __init__(self, width: int = 1) -> None:
            super().__init__()

        def train_dataloader(self) -> Any:
            return batches()

    monkeypatch.setattr(sys, "argv", ["main.py", "fit", *args])
    cli = importlib.import_module(f"{pl.__name__}.cli").LightningCLI(
        Model,
        seed_everything_default=False,  # it would set environment variables
        save_config_kwargs={"overwrite": True},
        trainer_defaults={
            "default_root_dir": str(folder),
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
    )
    (monitor,) = [c for c in cli.trainer.callbacks if isinstance(c, CurvatureMonitor)]
    return monitor


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


# Trainer(logger=False), for tests that need none
pytestmark = pytest.mark.filterwarnings("ignore:curvwatch. the Trainer has no logger")


@pytest.mark.parametrize("name", ["CurvatureMonitor", "curvwatch.CurvatureMonitor"])
def test_a_class_name_on_the_command_line(fitted: Fitted, name: str) -> None:
    monitor = fitted(f"{CALLBACKS}+={name}", f"{CALLBACKS}.every_n_steps=2")
    for metric in ("curvature/sharpness", "step/stability_ratio"):
        assert monitor.history[metric].steps.tolist() == [0, 2, 4]


@pytest.mark.parametrize(
    "args",
    [
        [f"{CALLBACKS}.measures=[step_geometry]"],
        [f"{CALLBACKS}.measures+=step_geometry"],
        [f"{CALLBACKS}.measures+=curvwatch.StepGeometry", f"{CALLBACKS}.measures.curvature=secant"],
        [f"{CALLBACKS}.measures=[{{class_path: StepGeometry, init_args: {{curvature: secant}}}}]"],
    ],
)
@of_one_namespace
def test_measures_on_the_command_line(fitted: Fitted, args: list[str]) -> None:
    monitor = fitted(f"{CALLBACKS}+=CurvatureMonitor", *args)
    (measure,) = monitor.measures
    assert isinstance(measure, StepGeometry)
    assert measure.curvature == ("secant" if "secant" in args[-1] else "exact")
    assert "step/stability_ratio" in monitor.history


@of_one_namespace
def test_compared_optimizers_on_the_command_line(fitted: Fitted) -> None:
    half = "{class_path: curvwatch.Compared, init_args: {name: half, optimizer: lion, clip: 0.5}}"
    measure = f"{{class_path: StepGeometry, init_args: {{compare: [adam, {half}]}}}}"
    monitor = fitted(f"{CALLBACKS}+=CurvatureMonitor", f"{CALLBACKS}.measures=[{measure}]")
    (geometry,) = monitor.measures
    assert isinstance(geometry, StepGeometry)
    assert geometry.compare == (Compared("adam"), Compared("half", "lion", 0.5))
    assert "step/half/directional_sharpness" in monitor.history


def test_yaml(fitted: Fitted, tmp_path: Path) -> None:
    monitor = fitted("--config", written(tmp_path / "in.yaml", YAML))
    sharpness, geometry = monitor.measures
    assert isinstance(sharpness, Sharpness)
    assert isinstance(geometry, StepGeometry)
    assert sharpness.rtol == 1e-4
    assert monitor._session._probe_source == "current"
    assert monitor._session._rules == (Rule("sharp", "curvature/sharpness", 500.0, 2, "too sharp"),)
    assert monitor._session._actions == ("stop",)
    assert monitor.history["curvature/sharpness"].steps.tolist() == [0, 3]
    assert monitor.history["step/stability_ratio"].steps.tolist() == [0, 2, 4]


@of_one_namespace
def test_a_preset(fitted: Fitted, tmp_path: Path) -> None:
    on_the_line = fitted(f"{CALLBACKS}+=curvwatch.CurvatureMonitor.preset", f"{CALLBACKS}.which=watch")
    assert [m.name for m in on_the_line.measures] == ["sharpness", "step_geometry"]
    monitor = fitted("--config", written(tmp_path / "in.yaml", PRESET))
    assert [m.name for m in monitor.measures] == list(PRESETS["study"].measures)
    assert (monitor.budget, monitor.name) == (PRESETS["study"].budget, "mine")
    assert monitor.history["curvature/eigenvalue/0"].steps.tolist() == [0, 3]


@pytest.mark.parametrize("text", [YAML, PLAIN, PRESET], ids=["yaml", "plain", "preset"])
@of_one_namespace
def test_the_configuration_that_the_cli_saves_makes_the_same_run(
    fitted: Fitted, text: str, tmp_path: Path
) -> None:
    first = fitted("--config", written(tmp_path / "in.yaml", text))
    saved = tmp_path / "config.yaml"
    assert "Unable to serialize" not in saved.read_text()
    again = fitted("--config", str(saved))
    assert (
        again._session._rules
        == first._session._rules
        == (first._session._rules if text is YAML else DEFAULT_RULES)
    )
    assert again._session._actions == first._session._actions
    assert [vars(m) for m in again.measures] == [vars(m) for m in first.measures]
    name = "curvature/sharpness"
    assert again.history[name].steps.tolist() == first.history[name].steps.tolist()
