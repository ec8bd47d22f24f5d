"""What a training step writes to TensorBoard and W&B by itself is written once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from curvwatch import CurvatureMonitor
from tests.results.loggers.test_wandb import records
from tests.support.modules import Classifier, fit

wandb = pytest.importorskip("wandb")
accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


class Writes(Classifier):
    """Calls `write` with each loss, past the Trainer's loggers."""

    def __init__(self, write: Callable[[float], Any]) -> None:
        super().__init__()
        self.write = write

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.write(float(loss.detach()))
        return loss


@pytest.mark.parametrize("where", ["module", "elsewhere"])
def test_a_writer_of_the_users_own(tmp_path: Path, where: str) -> None:
    writer = SummaryWriter(tmp_path)
    module = Writes(lambda loss: writer.add_scalar("mine", loss))
    if where == "module":
        module.writer = writer
    fit(module, CurvatureMonitor(every_n_steps=1), max_steps=3)
    writer.add_scalar("after", 1.0)  # the writer is heard again
    writer.close()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert len(events.Scalars("mine")) == 3
    assert len(events.Scalars("after")) == 1


def test_a_run_of_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    wandb.init(project="test", dir=tmp_path, mode="offline")
    fit(Writes(lambda loss: wandb.log({"mine": loss})), CurvatureMonitor(every_n_steps=1), max_steps=3)
    wandb.finish()
    wandb.teardown()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    rows = [r for r in records(file) if r.WhichOneof("record_type") == "history"]
    assert len(rows) == 3
