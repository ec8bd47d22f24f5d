"""Three small trainings: an MLP and a CNN on Fashion-MNIST, and a character GPT."""

from __future__ import annotations

import gzip
import pydoc_data.topics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer

from benchmarks.counting import CountedLoss

# Debian's package dataset-fashion-mnist
FASHION = Path("/usr/share/datasets/fashion-mnist")
CHARACTERS = 64

Batch = tuple[Tensor, Tensor]
MakeOptimizer = Callable[[Iterable[Tensor]], Optimizer]


class Task(L.LightningModule):
    """A network and its cross-entropy.

    Args:
        net: from inputs to logits, shape (targets, classes).
        optimizer: from the parameters to their optimizer.
    """

    def __init__(self, net: nn.Module, optimizer: MakeOptimizer) -> None:
        super().__init__()
        self.net = net
        self.criterion = CountedLoss()
        self._optimizer = optimizer

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: Batch) -> Tensor:
        """The mean loss of the batch."""
        x, y = batch
        loss: Tensor = self.criterion(self(x), y)
        return loss

    def configure_optimizers(self) -> Optimizer:
        """The one that was given."""
        return self._optimizer(self.parameters())


@dataclass(frozen=True)
class Workload:
    """A network, its data, and learning rates at which it trains well.

    Attributes:
        label: for people.
        net: makes the network.
        batch: from a generator and a number of examples to a batch.
        batch_size: of training and of the probe.
        rates: of the optimizers, by name.
    """

    label: str
    net: Callable[[], nn.Module]
    batch: Callable[[torch.Generator, int], Batch]
    batch_size: int
    rates: dict[str, float]

    def task(self, optimizer: str = "sgd", *, seed: int = 0) -> Task:
        """The module with fresh weights and the optimizer called `optimizer`."""
        torch.manual_seed(seed)
        return Task(self.net(), partial(_OPTIMIZERS[optimizer], rate=self.rates[optimizer]))


class GPT(nn.Module):
    """A pre-norm transformer decoder; the logits are flat, shape (batch x length, vocabulary).

    Args:
        vocabulary: number of tokens.
        width: of the residual stream.
        layers: number of blocks.
        heads: of attention.
        context: longest sequence.
        tied: use the token embedding as the output layer, as GPT-2 does.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        context: int = CHARACTERS,
        tied: bool = False,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*[_Block(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        """From tokens of shape (batch, length) to logits."""
        embedded = self.tokens(x) + self.positions.weight[: x.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(embedded)))
        return logits.flatten(0, 1)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(self.norm1(x)).split(width, -1)
        q, k, v = (p.view(batch, length, self.heads, -1).transpose(1, 2) for p in parts)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        added: Tensor = x + self.mlp(self.norm2(x))
        return added


def random_tokens(vocabulary: int, *, batch: int, length: int) -> Batch:
    """Sequences without a meaning, and their targets."""
    tokens = torch.randint(vocabulary, (batch, length + 1), generator=torch.Generator().manual_seed(0))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def images_are() -> str:
    """Which images the MLP and the CNN are trained on."""
    return "Fashion-MNIST" if FASHION.is_dir() else "scikit-learn's digits, as Fashion-MNIST is missing"


@lru_cache
def _images() -> Batch:
    """20000 images of shape (1, 28, 28), standardised, and their classes."""
    if FASHION.is_dir():
        with gzip.open(FASHION / "train-images-idx3-ubyte.gz") as file:
            pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
        with gzip.open(FASHION / "train-labels-idx1-ubyte.gz") as file:
            classes = np.frombuffer(file.read(), np.uint8, offset=8)
        x, y = torch.tensor(pixels[:20000]).float() / 255, torch.tensor(classes[:20000]).long()
        return (x - 0.286) / 0.353, y
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8)
    x = F.interpolate(x, size=28, mode="bilinear")
    return (x - x.mean()) / x.std(), torch.tensor(classes)


def _image_batch(generator: torch.Generator, size: int) -> Batch:
    x, y = _images()
    chosen = torch.randint(len(x), (size,), generator=generator)
    return x[chosen], y[chosen]


@lru_cache
def _text() -> tuple[Tensor, int]:
    """The manual of Python in its standard library, as indices, and the number of characters."""
    text = "".join(pydoc_data.topics.topics.values())
    alphabet = {character: i for i, character in enumerate(sorted(set(text)))}
    return torch.tensor([alphabet[character] for character in text]), len(alphabet)


def _text_batch(generator: torch.Generator, size: int) -> Batch:
    text, _ = _text()
    starts = torch.randint(len(text) - CHARACTERS - 1, (size,), generator=generator)
    cut = torch.stack([text[i : i + CHARACTERS + 1] for i in starts.tolist()])
    return cut[:, :-1].contiguous(), cut[:, 1:].contiguous()


def _mlp(width: int = 128) -> nn.Module:
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(784, width), nn.Tanh()),
        *(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 10)),
    )


def _cnn() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1568, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def _sgd(params: Iterable[Tensor], rate: float) -> Optimizer:
    return SGD(params, lr=rate, momentum=0.9)


def _adam(params: Iterable[Tensor], rate: float) -> Optimizer:
    return Adam(params, lr=rate)


_OPTIMIZERS = {"sgd": _sgd, "adam": _adam}
OPTIMIZER_LABELS = {"sgd": "SGD", "adam": "Adam"}

# its weights outweigh its activations, so vectors are what memory goes into
WIDE = Workload("wide MLP", partial(_mlp, width=3072), _image_batch, 128, {"sgd": 0.05, "adam": 1e-4})
WORKLOADS = {
    "mlp": Workload("MLP", _mlp, _image_batch, 128, {"sgd": 0.05, "adam": 1e-3}),
    "cnn": Workload("CNN", _cnn, _image_batch, 128, {"sgd": 0.02, "adam": 1e-3}),
    "gpt": Workload("GPT", lambda: GPT(_text()[1]), _text_batch, 16, {"sgd": 0.1, "adam": 1e-3}),
}
