"""A model with all that keeps state: bit-identical with and without the monitor."""

from __future__ import annotations

import csv
import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from curvwatch import CurvatureMonitor
from tests.support.modules import CLASSES, FEATURES, Classifier, ListLogger, batches, fit, is_ours
from tests.support.studies import only
from tests.support.trace import Witness, assert_same, state_of


class Everything(Classifier):
    """BatchNorm, dropout, metrics, logging in every way, a scheduler that steps each step."""

    def __init__(self, optimizer: str = "adam") -> None:
        super().__init__(
            nn.Sequential(
                nn.Linear(FEATURES, 8),
                nn.BatchNorm1d(8),
                nn.ReLU(),
                nn.Dropout(0.3),
                nn.Linear(8, CLASSES),
            )
        )
        self.train_accuracy = MulticlassAccuracy(CLASSES)
        self.val_accuracy = MulticlassAccuracy(CLASSES)
        self.kind = optimizer

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        x = x + 0.01 * random.random() + 0.01 * np.random.rand()
        logits = self.net(x)
        loss = F.cross_entropy(logits, y)
        self.train_accuracy(logits, y)
        self.log("accuracy", self.train_accuracy, on_step=True, on_epoch=True)
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log_dict({"batch": float(batch_idx), "largest": logits.max()}, on_epoch=True)
        self.logger.log_metrics({"by_hand": float(loss.detach())}, step=batch_idx)
        return {"loss": loss, "logits": logits.detach()}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        logits = self.net(x)
        self.val_accuracy(logits, y)
        self.log("val_accuracy", self.val_accuracy)
        self.log("val_loss", F.cross_entropy(logits, y), prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizer = (
            torch.optim.Adam(self.parameters(), lr=0.01)
            if self.kind == "adam"
            else torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        )
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.8)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def user_columns(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file without our columns, and without rows that are ours alone."""
    with path.open() as file:
        rows = [{k: v for k, v in row.items() if not is_ours(k)} for row in csv.DictReader(file)]
    return [row for row in rows if any(v for k, v in row.items() if k != "step")]


def run(monitor: CurvatureMonitor | None, directory: Path, *, optimizer: str, **options: Any) -> Any:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    module, witness, rows = Everything(optimizer), Witness(), ListLogger()
    callbacks = [witness] if monitor is None else [monitor, witness]
    table = CSVLogger(directory)
    trainer = fit(
        module,
        *callbacks,
        data=batches(20, shuffle=True),
        val=batches(8),
        logger=[rows, table],
        max_epochs=2,
        val_check_interval=2,
        gradient_clip_val=0.5,
        **options,
    )
    logged = [(step, {k: v for k, v in m.items() if not is_ours(k)}) for step, m in rows.rows]
    return {
        "end": state_of(trainer, module),
        "logged": [[step, m] for step, m in logged if m],
        "pictures": witness.pictures,
        "csv": user_columns(Path(table.log_dir) / "metrics.csv"),
    }


def compare(directory: Path, monitor: CurvatureMonitor, **options: Any) -> None:
    plain = run(None, directory / "plain", **options)
    watched = run(monitor, directory / "watched", **options)
    assert len(plain["pictures"]) == 2 * 2 * 5
    assert len(plain["csv"]) > 2 * 5 // options.get("accumulate_grad_batches", 1)
    for part in plain:
        assert_same(plain[part], watched[part], part)


# each pair of two of the three
@pytest.mark.parametrize(
    ("accumulate", "every_n_steps", "optimizer"),
    only(
        itertools.product([1, 2], [1, 3], ["adam", "sgd"]),
        take=[(1, 1, "adam"), (1, 3, "sgd"), (2, 1, "sgd"), (2, 3, "adam")],
    ),
)
def test_a_run_is_bit_identical_with_and_without_the_monitor(
    tmp_path: Path, accumulate: int, every_n_steps: int, optimizer: str
) -> None:
    monitor = CurvatureMonitor(every_n_steps=every_n_steps)
    compare(tmp_path, monitor, optimizer=optimizer, accumulate_grad_batches=accumulate)
    steps = 2 * (5 if accumulate == 1 else 3)
    due = list(range(0, steps, every_n_steps))
    assert monitor.history["curvature/sharpness"].steps.tolist() == due
    assert monitor.history["step/directional_sharpness"].steps.tolist() == due


@pytest.mark.parametrize(
    ("measure", "probe"),
    only(
        itertools.product(["sharpness", "step_geometry"], ["first", "current"]),
        take=[("sharpness", "current"), ("step_geometry", "first")],
    ),
)
def test_so_it_is_with_either_measure_alone(tmp_path: Path, measure: str, probe: str) -> None:
    """A reading of the step ends where the step does, which could hide what that of the probe left."""
    monitor = CurvatureMonitor([measure], every_n_steps=2, probe=probe)
    compare(tmp_path, monitor, optimizer="sgd")
    assert len(monitor.history) > 0
