"""A Trainer that does nothing but train."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from benchmarks.workloads import Batch


def silence() -> None:
    """No messages of Lightning's."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)


def fit(
    module: L.LightningModule,
    batches: Sequence[Batch],
    *callbacks: L.Callback,
    accelerator: str = "cpu",
) -> L.Trainer:
    """Train for one step a batch, on the CPU or on one GPU."""
    silence()
    trainer = L.Trainer(
        max_steps=len(batches),
        accelerator=accelerator,
        devices=1,
        logger=False,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        barebones=False,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return trainer


class StepTimes(L.Callback):
    """CPU seconds from the begin of each step to the begin of the next, so with all callbacks.

    Attributes:
        seconds: of each step but the last.
    """

    def __init__(self) -> None:
        self._begins: list[float] = []

    @property
    def seconds(self) -> list[float]:
        """Of each step but the last."""
        return [b - a for a, b in zip(self._begins, self._begins[1:], strict=False)]

    def on_train_batch_start(self, *_: Any) -> None:
        """A step begins."""
        self._begins.append(time.process_time())
