"""Four tiny trainings: an MLP on all of a few digits, an MLP and a CNN on Fashion-MNIST, a GPT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import workloads
from benchmarks.workloads import GPT, Batch

LENGTH = 16


@dataclass(frozen=True)
class Task:
    """A network, its loss and its batches.

    Attributes:
        label: for people.
        net: makes the network.
        loss: of outputs and targets.
        batch: from a generator to a training batch.
        spoilt: what a broken reader makes of a batch, by a way in `WAYS`.
    """

    label: str
    net: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    batch: Callable[[torch.Generator], Batch]
    spoilt: Callable[[Batch, str, torch.Generator], Batch]


WAYS = ("inputs x50", "labels wrong")


def half_squared_error(outputs: Tensor, classes: Tensor) -> Tensor:
    """Against one-hot targets, a mean over examples: it keeps a network at its edge."""
    return (outputs - F.one_hot(classes, 10)).square().sum(1).mean() / 2


def entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy; sequences are flat in the logits."""
    return F.cross_entropy(logits, targets.flatten())


@lru_cache
def _digits() -> Batch:
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    x = torch.tensor(pixels[:512], dtype=torch.float32)
    x = ((x - x.mean(0)) / (x.std(0) + 1e-6)).clamp(-5, 5)
    return x, torch.tensor(classes[:512]).long()


@lru_cache
def _fashion() -> Batch:
    x, y = workloads._images()
    return F.avg_pool2d(x, 2), y


def _whole(generator: torch.Generator) -> Batch:
    return _digits()


def _of_fashion(generator: torch.Generator) -> Batch:
    x, y = _fashion()
    chosen = torch.randint(len(x), (64,), generator=generator)
    return x[chosen], y[chosen]


def _of_text(generator: torch.Generator) -> Batch:
    text, _ = workloads._text()
    starts = torch.randint(len(text) - LENGTH - 1, (16,), generator=generator)
    cut = torch.stack([text[i : i + LENGTH + 1] for i in starts.tolist()])
    return cut[:, :-1].contiguous(), cut[:, 1:].contiguous()


def _spoilt_images(batch: Batch, way: str, generator: torch.Generator) -> Batch:
    x, y = batch
    if way == WAYS[0]:
        return x * 50, y
    return x, torch.randint(10, y.shape, generator=generator)


def _spoilt_text(batch: Batch, way: str, generator: torch.Generator) -> Batch:
    # tokens cannot be scaled: either way they are of nothing
    x, y = batch
    other = torch.randint(workloads._text()[1], y.shape, generator=generator)
    return (other.flip(0), other) if way == WAYS[0] else (x, other)


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10))


def _relu() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(196, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10)
    )


def _cnn() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10)),
    )


def _gpt() -> nn.Module:
    return GPT(workloads._text()[1], width=24, layers=1, heads=2, context=LENGTH)


TASKS = {
    "mlp": Task("MLP, full batch", _mlp, half_squared_error, _whole, _spoilt_images),
    "relu": Task("MLP", _relu, entropy, _of_fashion, _spoilt_images),
    "cnn": Task("CNN", _cnn, entropy, _of_fashion, _spoilt_images),
    "gpt": Task("transformer", _gpt, entropy, _of_text, _spoilt_text),
}
