"""Logs with known values, written by the real loggers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from curvwatch import History
from curvwatch.results.alerts import Alert

Values = Mapping[str, Sequence[float]]
EVERY = 10
NAN = math.nan
VALUES: Values = {
    "curvature/loss": [4.0, 1.0, 2.0, 1.5],
    "curvature/sharpness": [1.0, NAN, 3.0, 8.0],
    "curvature/stability_ratio": [0.5, 1.5, NAN, 2.0],
    "step/directional_sharpness": [1.0, 2.0, 4.0, 64.0],
    "step/gradient_correlation": [-4.0, -2.0, -1.0, NAN],
    "curvature/cost_share": [0.5, 0.25, 0.125, 0.0625],
}
LR = {"lr": 0.1, "opt": {"name": "adam"}}
ALERT = Alert("divergence", "step/stability_ratio", 20, 2.0, "steps overshoot <b>[red]")


def rows(values: Values = VALUES) -> list[tuple[int, dict[str, float]]]:
    """Steps 0, 10, 20, ... and the values of each."""
    length = len(next(iter(values.values())))
    return [(i * EVERY, {name: series[i] for name, series in values.items()}) for i in range(length)]


def log_all(logger: Any, values: Values = VALUES) -> None:
    """As a Trainer does, with epochs of 20 steps."""
    for step, row in rows(values):
        logger.log_metrics({**row, "epoch": step // 20}, step=step)


def tensorboard(folder: Path, values: Values = VALUES, *, alert: bool = True) -> Path:
    logger = TensorBoardLogger(folder.parent, name="", version=folder.name)
    logger.log_hyperparams(LR)
    log_all(logger, values)
    if alert:
        logger.experiment.add_text(f"curvwatch/alerts/{ALERT.rule}", str(ALERT), ALERT.step)
    logger.finalize("success")
    return folder


def csv(folder: Path, values: Values = VALUES) -> Path:
    logger = CSVLogger(folder.parent, name="", version=folder.name)
    logger.log_hyperparams(LR)
    log_all(logger, values)
    logger.save()
    return folder


def history(path: Path, values: Values = VALUES) -> Path:
    kept = History()
    for step, row in rows(values):
        kept.record(step, row)
    kept.note(10, "no sharpness")
    kept.alerts.append(ALERT)
    return kept.save(path)


def wandb(folder: Path, name: str, values: Values = VALUES) -> Path:
    """The folder of an offline run."""
    package = pytest.importorskip("wandb")
    with pytest.MonkeyPatch.context() as env:
        env.setenv("WANDB_SILENT", "true")
        env.setenv("WANDB_CONSOLE", "off")
        folder.mkdir(parents=True, exist_ok=True)
        logger = WandbLogger(project="test", save_dir=folder, offline=True, name=name)
        logger.log_hyperparams(LR)
        log_all(logger, values)
        title = f"curvwatch: {ALERT.rule}"
        logger.experiment.alert(title=title, text=str(ALERT), level="WARN")
        package.finish()
        package.teardown()
    (run,) = folder.glob("wandb/offline-run-*")
    return run
