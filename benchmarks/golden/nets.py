"""Networks, data and Trainers of the golden runs: tiny, seeded, and by public names alone."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.golden.values import TIMES, Record
from curvwatch import CurvatureMonitor, CurvwatchWarning

FEATURES, CLASSES, LENGTH = 6, 3, 5


def examples(n: int, *, seed: int = 7, shape: tuple[int, ...] = (FEATURES,)) -> tuple[Tensor, Tensor]:
    """Gaussian inputs with labels that a small network can learn."""
    x = torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))
    return x, x.flatten(1)[:, :CLASSES].argmax(dim=1)


def loader(n: int, *, batch_size: int = 6, shape: tuple[int, ...] = (FEATURES,)) -> DataLoader[Any]:
    """The same batches in each epoch."""
    return DataLoader(TensorDataset(*examples(n, shape=shape)), batch_size=batch_size)


def mlp() -> nn.Sequential:
    """Two smooth layers."""
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, CLASSES))


def noisy_mlp() -> nn.Sequential:
    """With batch norm, dropout and kinks."""
    return nn.Sequential(
        nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, CLASSES)
    )


class Attention(nn.Module):
    """A convolution and a block of attention over sequences, shape (batch, features, length)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(FEATURES, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        h = self.norm(self.conv(x).transpose(1, 2))
        mixed, _ = self.attention(h, h, h, need_weights=False)
        logits: Tensor = self.head((h + mixed).mean(dim=1))
        return logits


class Task(pl.LightningModule):
    """Cross-entropy of a network.

    Args:
        net: from inputs to logits.
        configure: from the module to what `configure_optimizers` returns.
    """

    def __init__(self, net: nn.Module, configure: Callable[[Task], Any]) -> None:
        super().__init__()
        self.net = net
        self._configure = configure

    def loss(self, batch: Any) -> Tensor:
        """Of a batch."""
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """The loss, which is logged."""
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        """What was given."""
        return self._configure(self)


class TwoByHand(Task):
    """Manual optimization: one optimizer for the first layer, one for the others."""

    def __init__(self, net: nn.Sequential, configure: Callable[[Task], Any]) -> None:
        super().__init__(net, configure)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """A step of each."""
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()


def sgd(lr: float, **options: Any) -> Callable[[Task], Optimizer]:
    """SGD for all parameters of a task."""
    return lambda task: torch.optim.SGD(task.parameters(), lr=lr, **options)


class Rows(Logger):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    @property
    def name(self) -> str:
        """Any."""
        return "rows"

    @property
    def version(self) -> str:
        """Any."""
        return "0"

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is kept."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep a row."""
        self.rows.append((step, dict(metrics)))


def trainer(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    """A quiet one, on one CPU unless told otherwise."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    chosen: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "log_every_n_steps": 1,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": Rows(),
        **options,
    }
    return pl.Trainer(callbacks=list(callbacks), **chosen)


@contextmanager
def heard() -> Iterator[list[str]]:
    """The texts of curvwatch's warnings inside, once it is left; others are not shown."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", CurvwatchWarning)
        yield texts
    texts += [str(w.message) for w in caught]


def recorded(
    module: Task, monitor: CurvatureMonitor, data: Any, *, ckpt: Any = None, **options: Any
) -> Record:
    """Train `module` and record what `monitor` read and what was logged."""
    with heard() as texts:
        run = trainer(monitor, **options)
        run.fit(module, data, ckpt_path=ckpt)
    record = Record()
    record.add_run(monitor.history, monitor.advice(), module, texts)
    for step, metrics in run.logger.rows if isinstance(run.logger, Rows) else ():
        for name, value in metrics.items():
            if not name.startswith(TIMES):
                record.add(f"logged {name}", float(value), at=-1 if step is None else step)
    return record
