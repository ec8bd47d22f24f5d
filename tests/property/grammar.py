"""A grammar of runs: layers, optimizers, precisions, and options of the Trainer and the monitor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn, optim
from torch.nn.utils import parametrizations

from curvwatch import StepGeometry
from tests.compat.layers import (
    POSITIONS,
    VOCABULARY,
    WIDTH,
    Attention,
    Checkpointed,
    StochasticDepth,
    channels_first,
    encoder,
)
from tests.support.modules import CLASSES, FEATURES, Validated, batches

# layers, from (n, POSITIONS, WIDTH) to the same shape


class Calls(nn.Module):
    """`layer`, called by a function of it and the input."""

    def __init__(self, layer: nn.Module, call: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, h: Tensor) -> Tensor:
        out = self.call(self.layer, h)
        return out[0] if isinstance(out, tuple) else out


class Residual(nn.Sequential):
    def forward(self, h: Tensor) -> Tensor:
        return h + super().forward(h)


class Tokens(nn.Module):
    """Adds an embedding of what the signs and sizes of the input are."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH, **options)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.embed(h.detach().sum(dim=-1).mul(2).long().remainder(VOCABULARY))


class Counts(nn.Module):
    """Remembers in a buffer, a list and a number, and uses all three."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.seen: list[float] = []
        self.calls = 0

    def forward(self, h: Tensor) -> Tensor:
        self.calls += 1
        self.mean.mul_(0.9).add_(h.detach().mean(dim=(0, 1)), alpha=0.1)
        self.seen.append(float(self.mean.sum()))
        return h - self.mean * (1 + 0.1 * (self.calls % 3)) - 0.01 * self.seen[-1]


class Draws(nn.Module):
    """Noise from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(5)

    def forward(self, h: Tensor) -> Tensor:
        return h + 0.1 * torch.randn(h.shape, generator=self.generator).to(h)


def linear() -> nn.Linear:
    return nn.Linear(WIDTH, WIDTH)


def frozen(layer: nn.Module) -> nn.Module:
    return layer.requires_grad_(False)


def shared() -> nn.Module:
    """One layer, used twice."""
    layer = linear()
    return nn.Sequential(layer, nn.Tanh(), layer)


def tied() -> nn.Module:
    """Two layers with one weight."""
    first, second = linear(), linear()
    second.weight = first.weight
    return nn.Sequential(first, nn.GELU(), second)


def in_channels(layer: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: Calls(layer(), channels_first)


def as_image(layer: nn.Module, h: Tensor) -> Tensor:
    return layer(h[:, None])[:, 0]


def to_itself(layer: nn.Module, h: Tensor) -> Any:
    return layer(h, h, h, need_weights=False)


LEAVES: dict[str, Callable[[], nn.Module]] = {
    "linear": linear,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "conv1d": in_channels(lambda: nn.Conv1d(WIDTH, WIDTH, 3, padding=1)),
    "conv2d": lambda: Calls(nn.Conv2d(1, 1, 3, padding=1), as_image),
    "lstm": lambda: Calls(nn.LSTM(WIDTH, WIDTH, batch_first=True), nn.Module.__call__),
    "gru": lambda: Calls(nn.GRU(WIDTH, WIDTH, batch_first=True), nn.Module.__call__),
    "attention kernel": Attention,
    "attention": lambda: Calls(nn.MultiheadAttention(WIDTH, 2, batch_first=True), to_itself),
    "encoder": encoder(),
    "encoder, norm first": encoder(norm_first=True, activation="gelu"),
    "batch norm": in_channels(lambda: nn.BatchNorm1d(WIDTH)),
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "group norm": in_channels(lambda: nn.GroupNorm(2, WIDTH)),
    "instance norm": in_channels(lambda: nn.InstanceNorm1d(WIDTH, affine=True)),
    "dropout": lambda: nn.Dropout(0.3),
    "weight norm": lambda: parametrizations.weight_norm(linear()),
    "spectral norm": lambda: parametrizations.spectral_norm(linear()),
    "shared": shared,
    "tied": tied,
    "frozen": lambda: frozen(linear()),
    "frozen norm": lambda: frozen(in_channels(lambda: nn.BatchNorm1d(WIDTH))()),
    "checkpointed": lambda: Checkpointed(reentrant=False),
    "checkpointed, reentrant": lambda: Checkpointed(reentrant=True),
    "embedding": Tokens,
    "embedding with padding": lambda: Tokens(padding_idx=1),
    "counts": Counts,
    "draws": Draws,
}
# a word, or ("residual" | "stochastic depth", words)
Tree = Any
trees: st.SearchStrategy[list[Tree]] = st.lists(
    st.recursive(
        st.sampled_from(sorted(LEAVES)),
        lambda inner: st.tuples(
            st.sampled_from(["residual", "stochastic depth"]), st.lists(inner, min_size=1, max_size=2)
        ),
        max_leaves=3,
    ),
    min_size=1,
    max_size=4,
)


def built(tree: Tree) -> nn.Module:
    """The module of a tree."""
    if isinstance(tree, str):
        return LEAVES[tree]()
    kind, inner = tree
    if kind == "residual":
        return Residual(*map(built, inner))
    return StochasticDepth(nn.Sequential(*map(built, inner)), each=False)


class Net(nn.Module):
    """From (n, FEATURES) to (n, CLASSES)."""

    def __init__(self, blocks: Sequence[Tree]) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES // POSITIONS, WIDTH)
        self.blocks = nn.Sequential(*map(built, blocks))
        self.head = nn.Linear(WIDTH, CLASSES)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.view(len(x), POSITIONS, -1)).tanh()
        return self.head(self.blocks(h).mean(dim=1))


# optimizers

OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {
    "SGD": partial(optim.SGD, lr=0.1),
    "SGD, momentum": partial(optim.SGD, lr=0.05, momentum=0.9, dampening=0.2, weight_decay=0.01),
    "SGD, Nesterov": partial(optim.SGD, lr=0.05, momentum=0.9, nesterov=True),
    "Adam": partial(optim.Adam, lr=0.01),
    "AMSGrad": partial(optim.Adam, lr=0.01, amsgrad=True, weight_decay=0.1),
    "AdamW": partial(optim.AdamW, lr=0.01, foreach=True),
    "Adamax": partial(optim.Adamax, lr=0.01),
    "NAdam": partial(optim.NAdam, lr=0.01),
    "RAdam": partial(optim.RAdam, lr=0.01),
    "RMSprop": partial(optim.RMSprop, lr=0.01, momentum=0.5, centered=True),
    "Adagrad": partial(optim.Adagrad, lr=0.05),
    "Adadelta": partial(optim.Adadelta, lr=1.0),
    "Adafactor": partial(optim.Adafactor, lr=0.05),
    "Rprop": partial(optim.Rprop, lr=0.01),
    "ASGD": partial(optim.ASGD, lr=0.05),
    "LBFGS": partial(optim.LBFGS, lr=0.1, max_iter=3),
}


@dataclass(frozen=True)
class Model:
    """What is trained, and by what.

    Attributes:
        blocks: trees of layers.
        optimizer: a key of OPTIMIZERS.
        groups: the last layer has a group, and a learning rate, of its own.
        schedule: the learning rate falls at each step.
    """

    blocks: tuple[Tree, ...]
    optimizer: str
    groups: bool
    schedule: bool

    def made(self) -> Drawn:
        """The LightningModule."""
        return Drawn(self)


class Drawn(Validated):
    def __init__(self, model: Model) -> None:
        super().__init__(Net(model.blocks))
        self.kind, self.groups, self.schedule = model.optimizer, model.groups, model.schedule

    def configure_optimizers(self) -> Any:
        head = list(self.net.head.parameters())
        rest = [p for p in self.net.parameters() if not any(p is h for h in head)]
        groups: Any = [*rest, *head]
        if self.groups and self.kind != "LBFGS":  # it has one group
            groups = [{"params": rest}, {"params": head, "lr": 0.02}]
        optimizer = OPTIMIZERS[self.kind](groups)
        if not self.schedule:
            return optimizer
        scheduler = optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


models = st.builds(
    Model,
    blocks=trees.map(tuple),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    groups=st.booleans(),
    schedule=st.booleans(),
)

# the Trainer

PRECISIONS = ["32-true", "64-true", "bf16-mixed", "bf16-true"]
trainers = st.fixed_dictionaries(
    {"precision": st.sampled_from(PRECISIONS), "max_epochs": st.sampled_from([1, 2])},
    optional={
        "accumulate_grad_batches": st.sampled_from([2, 3]),
        "gradient_clip_val": st.sampled_from([0.1, 5.0]),
        "gradient_clip_algorithm": st.sampled_from(["norm", "value"]),
        "limit_train_batches": st.sampled_from([3, 0.7]),
        "val_check_interval": st.sampled_from([2, 0.5]),
        "limit_val_batches": st.just(1),
        "num_sanity_val_steps": st.just(0),
        "overfit_batches": st.just(2),
        "max_steps": st.just(3),
    },
)


@dataclass(frozen=True)
class Data:
    """Training examples in batches; a last batch may be short."""

    batch_size: int
    shuffle: bool

    def made(self) -> Any:
        return batches(13, batch_size=self.batch_size, shuffle=self.shuffle)


loaders = st.builds(Data, batch_size=st.sampled_from([2, 3]), shuffle=st.booleans())

# the monitor

_GEOMETRIES = {
    "secant": StepGeometry(curvature="secant"),
    "compared": StepGeometry(compare=["clipped_adam", {"rms": lambda p: torch.optim.RMSprop(p)}]),
}
monitors = st.fixed_dictionaries(
    {"every_n_steps": st.sampled_from([1, 2, 3, None])},
    optional={
        "measures": st.sampled_from(
            [["sharpness"], ["step_geometry"], ["step_geometry", "sharpness"], "secant", "compared"]
        ).map(lambda m: [_GEOMETRIES[m], "sharpness"] if isinstance(m, str) else m),
        "probe": st.sampled_from(["first", "current"]),
        "probe_batches": st.sampled_from([1, 2]),
        "mode": st.sampled_from(["train", "eval"]),
        "budget": st.just(0.5),
    },
)
