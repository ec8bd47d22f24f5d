"""Rows: kinds of steps, batches, loaders and runs."""

from __future__ import annotations

import signal
from collections import UserDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
)
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, default_collate

from tests.compat.rows import Row
from tests.support.modules import (
    CLASSES,
    FEATURES,
    Classifier,
    Validated,
    adam,
    batches,
    examples,
    fit,
    mlp,
)


class InADict(Classifier):
    """Returns a dict, with a tensor that has a graph."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.net(batch[0])
        return {"logits": logits, "loss": nn.functional.cross_entropy(logits, batch[1])}


class NowAndThen(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx == 1 else super().training_step(batch, batch_idx)


class Unpacks(Classifier):
    """Takes x and y out of its batch by `of`, and writes to x."""

    def __init__(self, of: Callable[[Any], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.of = of

    def loss(self, batch: Any) -> Tensor:
        x, y = self.of(batch)
        x.mul_(1.5)
        return super().loss((x.to(self.net[0].weight.dtype), y))


@dataclass
class Pair:
    x: Tensor
    y: Tensor


class Encoding(UserDict):
    """As Hugging Face's BatchEncoding."""

    def to(self, device: Any, **kwargs: Any) -> Encoding:
        self.data = {k: v.to(device) for k, v in self.data.items()}
        return self


class Graphs:
    """As PyTorch Geometric's Batch, without its `clone`."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.stores = [{"x": x}, {"y": y}]

    def to(self, device: Any) -> Graphs:
        for store in self.stores:
            store.update({k: v.to(device) for k, v in store.items()})
        return self


def collated(kind: Callable[[Tensor, Tensor], Any]) -> Callable[[], DataLoader]:
    def collate(items: Any) -> Any:
        return kind(*default_collate(items))

    return lambda: DataLoader(examples(12), batch_size=4, collate_fn=collate)


def of_kind(
    name: str, kind: Callable[[Tensor, Tensor], Any], of: Callable[[Any], tuple[Tensor, Tensor]]
) -> Row:
    return Row(name, lambda: Unpacks(of), data=collated(kind))


class Stream(IterableDataset):
    """Has no length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(batches(12))


def combined(mode: str) -> Callable[[], CombinedLoader]:
    return lambda: CombinedLoader({"a": batches(12), "b": batches(8)}, mode)


class OfBoth(Classifier):
    def loss(self, batch: Any) -> Tensor:
        return super().loss(batch["a"]) + super().loss(batch["b"])


def lbfgs(params: Any) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(params, lr=0.2, max_iter=3)


class Adversaries(Classifier):
    """Two optimizers by hand, each toggled on while it makes its step."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(mlp(dropout))
        self.critic = nn.Linear(CLASSES, 1)
        self.automatic_optimization = False

    def loss(self, batch: Any) -> Tensor:
        return super().loss(batch) - self.critic(self.net(batch[0])).mean().tanh()

    def critics_loss(self, batch: Any) -> Tensor:
        return self.critic(self.net(batch[0]).detach()).square().mean()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer, loss in zip(self.optimizers(), (self.loss, self.critics_loss), strict=True):
            self.toggle_optimizer(optimizer)
            value = loss(batch)
            self.log(loss.__name__, value)
            optimizer.zero_grad()
            self.manual_backward(value)
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        return adam(self.net.parameters()), torch.optim.SGD(self.critic.parameters(), lr=0.1)


ADVERSARIES = {
    "loss_fn": [lambda module, batch: module.loss(batch), lambda m, batch: m.critics_loss(batch)]
}


def twice(module: Any, *callbacks: Any, **options: Any) -> pl.Trainer:
    """`fit` again with the same Trainer."""
    trainer = fit(module, *callbacks, **options)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, options["data"])
    return trainer


class Ends(Classifier):
    """Raises in its third step."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error = error

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        if batch_idx == 2:
            raise self.error("the user's own")
        return loss


class KeepsTrainer(pl.Callback):
    trainer: pl.Trainer

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        self.trainer = trainer


def until_it_ends(module: Any, *callbacks: Any, **options: Any) -> pl.Trainer:
    """A run whose training raises: the error is the user's own, or what Lightning makes of it."""
    kept, handler = KeepsTrainer(), signal.getsignal(signal.SIGINT)
    # Lightning makes a KeyboardInterrupt an exit
    raised = SystemExit if module.error is KeyboardInterrupt else module.error
    try:
        with pytest.raises(raised, match=r"1|the user's own"):
            fit(module, kept, *callbacks, **options)
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning switches it off
    return kept.trainer


def normed() -> Validated:
    """Validation shows what it may change: BatchNorm's mode."""
    return Validated(nn.Sequential(nn.Linear(FEATURES, 4), nn.BatchNorm1d(4), nn.Linear(4, CLASSES)))


TWICE = {"max_epochs": 2}

STEPS = [
    Row("training_step returns a dict", InADict),
    Row("training_step returns None now and then", NowAndThen, skipped=(1,)),
    of_kind("batch: dict", lambda x, y: {"x": x, "y": y}, lambda b: (b["x"], b["y"])),
    of_kind("batch: dataclass", Pair, lambda b: (b.x, b.y)),
    of_kind("batch: nested tuple", lambda x, y: ((x, [y]), {"n": 1}), lambda b: (b[0][0], b[0][1][0])),
    of_kind(
        "batch: BatchEncoding (a UserDict with .to)",
        lambda x, y: Encoding(x=x, y=y),
        lambda b: (b["x"], b["y"]),
    ),
    of_kind(
        "batch: an object with .to and no clone",
        Graphs,
        lambda b: (b.stores[0]["x"], b.stores[1]["y"]),
    ),
    Row(
        "accumulate_grad_batches",
        Classifier,
        data=lambda: batches(16),
        options={"accumulate_grad_batches": 2},
        steps=(0, 1),
    ),
    Row(
        "GradientAccumulationScheduler",
        Classifier,
        callbacks=lambda: [GradientAccumulationScheduler({0: 1, 1: 2})],
        options=TWICE,
        values="finite",
        steps=(0, 1, 2, 3, 4),
    ),
    Row("gradient_clip_val", Classifier, options={"gradient_clip_val": 0.1}),
    Row(
        "gradient_clip_algorithm: value",
        Classifier,
        options={"gradient_clip_val": 0.02, "gradient_clip_algorithm": "value"},
    ),
    Row("overfit_batches", Classifier, options={"overfit_batches": 2, **TWICE}, steps=(0, 1, 2, 3)),
    Row("CombinedLoader: max_size_cycle", OfBoth, data=combined("max_size_cycle")),
    Row("CombinedLoader: min_size", OfBoth, data=combined("min_size"), steps=(0, 1)),
    Row("IterableDataset without a length", Classifier, data=lambda: DataLoader(Stream(), None)),
    Row(
        "validation within the epoch",
        normed,
        options={"val": batches(8), "val_check_interval": 1, "num_sanity_val_steps": 0},
    ),
    Row("sanity check", normed, options={"val": batches(8), "num_sanity_val_steps": 2}),
    Row("limit_train_batches", Classifier, options={"limit_train_batches": 2}, steps=(0, 1)),
    Row("max_time", Classifier, options={"max_time": {"minutes": 5}}),
    Row("LBFGS", lambda: Classifier(optimizer=lbfgs)),
    Row(
        "several optimizers by hand, toggled, loss_fn=[...]",
        Adversaries,
        monitor=ADVERSARIES,
        values="finite",
    ),
    Row(
        "several optimizers by hand, dropout",
        lambda: Adversaries(dropout=0.2),
        monitor=ADVERSARIES,
        values="finite",
        says=("training_step is not repeatable",),
    ),
    Row(
        "StochasticWeightAveraging",
        lambda: Classifier(mlp(dropout=0.2)),
        callbacks=lambda: [StochasticWeightAveraging(0.05, swa_epoch_start=1)],
        options={"max_epochs": 3},
        steps=tuple(range(9)),
    ),
    Row(
        "StochasticWeightAveraging, BatchNorm",
        lambda: Classifier(normed().net),
        callbacks=lambda: [StochasticWeightAveraging(0.05, swa_epoch_start=1)],
        options={"max_epochs": 3},
        steps=tuple(range(9)),
    ),
    Row(
        "EMAWeightAveraging",
        lambda: Validated(mlp(dropout=0.2)),
        callbacks=lambda: [EMAWeightAveraging(decay=0.5)],
        options={"val": batches(4)},
    ),
    Row("trainer.fit twice", Classifier, scenario=twice, steps=tuple(range(6))),
    Row(
        "KeyboardInterrupt",
        lambda: Ends(KeyboardInterrupt),
        scenario=until_it_ends,
        steps=(0, 1),
    ),
    Row(
        "an exception in training_step",
        lambda: Ends(OSError),
        scenario=until_it_ends,
        steps=(0, 1),
    ),
]
