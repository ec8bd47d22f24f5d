"""Run by test_processes.py: runs on two processes, what each of them saw is saved for the test.

python -m tests.training.lightning.two_processes DIRECTORY
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from curvwatch import CurvatureMonitor, Rule, lower_lr
from tests.support.modules import CLASSES, FEATURES, Classifier, batches, fit

STEPS = 8


class Normalised(Classifier):
    """BatchNorm statistics and dropout differ from process to process."""

    def __init__(self) -> None:
        super().__init__(
            nn.Sequential(
                nn.Linear(FEATURES, 8),
                nn.BatchNorm1d(8),
                nn.ReLU(),
                nn.Dropout(0.2),
                nn.Linear(8, CLASSES),
            )
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss, sync_dist=True, on_epoch=True)
        return loss


class NotFiniteOnOne(Classifier):
    """From batch 3 on one process has a loss that is not finite, with gradients that are."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        spoiled = self.global_rank == 1 and batch_idx >= 3
        return loss + (torch.tensor(torch.inf) if spoiled else 0.0)


class FailsOnOne(Classifier):
    """On one process a reading fails."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        # a real step runs under the optimizer's closure, with the weights themselves
        reading = not isinstance(self.net[0].weight, nn.Parameter)
        if reading and self.global_rank == 1:
            raise OSError("no space left")
        return self.loss(batch)


class LogsOnOne(Classifier):
    """Each process logs a value of its own: 0 to 7, and 10 to 17."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.log("mine", float(batch_idx + 10 * self.global_rank))
        return self.loss(batch)


class Saves(pl.Callback):
    """Writes what this process saw."""

    def __init__(self, directory: Path, monitor: CurvatureMonitor | None) -> None:
        self.directory = directory
        self.monitor = monitor

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        seen = {
            "steps": trainer.global_step,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "weights": dict(module.state_dict()),
            "logged": {k: v for k, v in trainer.logged_metrics.items() if k.startswith("train_loss")},
            "history": self.monitor and self.monitor.history.to_dict(),
            "alerts": self.monitor and [vars(a) for a in self.monitor.alerts],
            "warnings": TOLD,
        }
        torch.save(seen, self.directory / f"{trainer.global_rank}.pt")


TOLD: list[str] = []


def run(
    directory: Path, make: Callable[[], Classifier], monitor: CurvatureMonitor | None, **options: Any
) -> None:
    directory.mkdir()
    TOLD.clear()
    torch.manual_seed(0)
    callbacks = [Saves(directory, monitor)]
    fit(
        make(),
        *([] if monitor is None else [monitor]),
        *callbacks,
        data=batches(8 * STEPS),
        max_steps=STEPS,
        devices=2,
        strategy="ddp_fork",
        **options,
    )


def main(directory: Path) -> None:
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.showwarning = lambda message, *_: TOLD.append(str(message))
    warnings.simplefilter("always")
    run(directory / "plain", Normalised, None)
    run(directory / "watched", Normalised, CurvatureMonitor(every_n_steps=1))
    run(directory / "budget", Normalised, CurvatureMonitor(budget=0.3))
    # the probe stays finite: the training loss alone tells
    stopping = CurvatureMonitor(["sharpness"], every_n_steps=2, on_alert="stop")
    run(directory / "stop", NotFiniteOnOne, stopping)
    mine = Rule("mine", "mine", above=8.5)  # of the mean
    changing = CurvatureMonitor(every_n_steps=2, rules=[mine], on_alert=[lower_lr(0.5), "checkpoint"])
    run(directory / "changes", LogsOnOne, changing, default_root_dir=directory)
    run(directory / "fails", FailsOnOne, CurvatureMonitor(every_n_steps=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
