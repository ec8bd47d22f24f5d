"""Small networks, their data, and one training with the monitor on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import lightning as L
import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader, IterableDataset

from curvwatch import History
from curvwatch.cli.demo.digits import whole_data_set
from gallery.finding import Results

Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


@lru_cache
def digits() -> Batch:
    """1797 images of 8x8 pixels between 0 and 1, shape (1797, 64), and their classes."""
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    return torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(classes)


def standardised_digits() -> Batch:
    """The same, each pixel with mean 0 and deviation 1: the data of `curvwatch demo`."""
    return whole_data_set()[0], digits()[1]


def relu_mlp(width: int = 50) -> nn.Sequential:
    """64-width-width-10."""
    return nn.Sequential(
        *(nn.Linear(64, width), nn.ReLU()), *(nn.Linear(width, width), nn.ReLU()), nn.Linear(width, 10)
    )


def tanh_mlp(width: int = 100) -> nn.Sequential:
    """64-width-width-10, smooth: the network of `curvwatch demo`."""
    return nn.Sequential(
        *(nn.Linear(64, width), nn.Tanh()), *(nn.Linear(width, width), nn.Tanh()), nn.Linear(width, 10)
    )


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over all positions; sequences may be flat in the logits."""
    return F.cross_entropy(logits, targets.flatten())


def half_squared_error(outputs: Tensor, classes: Tensor) -> Tensor:
    """Against one-hot targets, a mean over examples: it keeps a network at its edge."""
    return (outputs - F.one_hot(classes, outputs.shape[1])).square().sum(1).mean() / 2


class Training(L.LightningModule):
    """A network, its loss and its optimizer.

    Args:
        net: the network.
        loss: of outputs and targets.
        optimizer: from the parameters to their optimizer.
    """

    def __init__(
        self, net: nn.Module, loss: Loss, optimizer: Callable[[Iterable[Tensor]], Optimizer]
    ) -> None:
        super().__init__()
        self.net = net
        self._loss = loss
        self._optimizer = optimizer

    def training_step(self, batch: Batch) -> Tensor:
        """The loss of the batch."""
        return self._loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Optimizer:
        """The one that was given."""
        return self._optimizer(self.parameters())


class Whole(IterableDataset[Batch]):
    """The whole of `data` at each step, without end."""

    def __init__(self, data: Batch) -> None:
        self._data = data

    def __iter__(self) -> Iterator[Batch]:
        """The same batch again and again."""
        while True:
            yield self._data


class Shuffled(IterableDataset[Batch]):
    """Random batches of `data`, without end, the same for each seed."""

    def __init__(self, data: Batch, size: int, *, seed: int = 0) -> None:
        self._data = data
        self._size = size
        self._seed = seed

    def __iter__(self) -> Iterator[Batch]:
        """Whole passes over the data, the last incomplete batch left out."""
        generator = torch.Generator().manual_seed(self._seed)
        x, y = self._data
        while True:
            order = torch.randperm(len(x), generator=generator)
            for chosen in order[: len(x) // self._size * self._size].split(self._size):
                yield x[chosen], y[chosen]


def train(
    module: L.LightningModule,
    batches: Iterable[Batch],
    *,
    steps: int,
    callbacks: Sequence[L.Callback],
    progress: Progress,
    label: str,
    **options: Any,
) -> L.Trainer:
    """Train for `steps` steps, without a logger."""
    task = progress.add_task(label, total=steps)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "curvwatch: the Trainer has no logger")
        trainer = L.Trainer(
            max_steps=steps,
            accelerator="cpu",
            devices=1,
            logger=False,
            callbacks=[*callbacks, _Bar(progress, task)],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            **options,
        )
        trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return trainer


class _Bar(L.Callback):
    def __init__(self, progress: Progress, task: Any) -> None:
        self._progress = progress
        self._task = task

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._progress.update(self._task, completed=trainer.global_step)


def readings(history: History, *names: str, under: str = "curvature") -> Results:
    """The values of metrics by the last part of their names, for JSON."""
    return {name: rounded(history[f"{under}/{name}"].values) for name in names}


def rounded(values: Iterable[float], digits: int = 4) -> list[float | None]:
    """For JSON, which has no nan."""
    return [float(f"{v:.{digits}g}") if np.isfinite(v) else None for v in values]


def floats(values: Iterable[float | None]) -> np.ndarray:
    """Back again: nan for None."""
    return np.array([np.nan if v is None else v for v in values])
