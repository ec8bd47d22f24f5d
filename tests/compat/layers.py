"""Rows: layers, alone and as they remember."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from tests.compat.rows import Row, of_net
from tests.support.modules import CLASSES, FEATURES, Classifier

WIDTH, POSITIONS, VOCABULARY = 4, 3, 7


class Between(nn.Module):
    """`layer` on (n, POSITIONS, WIDTH), or on (n, WIDTH), between an input and an output layer."""

    def __init__(self, layer: nn.Module, *, call: Callable[..., Any] | None = None, flat: bool = False):
        super().__init__()
        self.shape = (FEATURES,) if flat else (POSITIONS, FEATURES // POSITIONS)
        self.first = nn.Linear(self.shape[-1], WIDTH)
        self.layer, self.call = layer, call
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.view(-1, *self.shape)).tanh()
        out = self.layer(h) if self.call is None else self.call(self.layer, h)
        out = out[0] if isinstance(out, tuple) else out
        return self.head(out if out.ndim == 2 else out.mean(dim=1))


def between(layer: Callable[[], nn.Module], **options: Any) -> Callable[[], Classifier]:
    return of_net(lambda: Between(layer(), **options))


def flat(layer: Callable[[], nn.Module], **options: Any) -> Callable[[], Classifier]:
    return between(layer, flat=True, **options)


class Attention(nn.Module):
    """The kernel itself, with a causal mask."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.dropout = dropout

    def forward(self, h: Tensor) -> Tensor:
        heads = self.qkv(h).view(*h.shape[:2], 3, 2, WIDTH // 2).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(*heads, dropout_p=self.dropout, is_causal=True)
        return out.transpose(1, 2).flatten(2)


def to_itself(layer: nn.Module, h: Tensor) -> Any:
    return layer(h, h, h, need_weights=False)


def padded(layer: nn.Module, h: Tensor) -> Tensor:
    mask = torch.zeros(h.shape[:2], dtype=torch.bool)
    mask[:, -1] = True
    return layer(h, src_key_padding_mask=mask)


def positions_first(layer: nn.Module, h: Tensor) -> Tensor:
    return layer(h.transpose(0, 1)).transpose(0, 1)


def channels_first(layer: nn.Module, h: Tensor) -> Tensor:
    return layer(h.transpose(1, 2)).transpose(1, 2)


def encoder(**options: Any) -> Callable[[], nn.Module]:
    options = {"batch_first": True, "dropout": 0.1, **options}
    return lambda: nn.TransformerEncoderLayer(WIDTH, 2, 3, **options)


class StochasticDepth(nn.Module):
    """Skips its block at random: whole, or for some examples."""

    def __init__(self, block: nn.Module, *, each: bool) -> None:
        super().__init__()
        self.block, self.each = block, each

    def forward(self, h: Tensor) -> Tensor:
        if self.each:
            kept = torch.rand(len(h), *[1] * (h.ndim - 1)) < 0.5
            return h + self.block(h) * kept / 0.5
        return h if torch.rand(()) < 0.5 else h + self.block(h)


def tokens(x: Tensor) -> Tensor:
    """Of (n, FEATURES), with some of each kind."""
    return x.mul(2).long().remainder(VOCABULARY)


class Embedded(nn.Module):
    """An embedding, and an output layer or itself as one."""

    def __init__(self, *, tied: bool = False, **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH, **options)
        self.head = nn.Linear(WIDTH, VOCABULARY if tied else CLASSES, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(tokens(x)).tanh().mean(dim=1))


class Sparse(Classifier):
    """Its gradients are sparse; gone after the step, for pictures are taken of dense ones alone."""

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.zero_grad()


class Checkpointed(nn.Module):
    """A block with dropout, checkpointed."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.2), nn.Tanh())
        self.reentrant = reentrant

    def forward(self, h: Tensor) -> Tensor:
        return checkpoint(self.block, h, use_reentrant=self.reentrant)


class OnlyOnce(torch.autograd.Function):
    """A sine whose derivative has none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * ctx.saved_tensors[0].cos()


class Twice(OnlyOnce):
    """The same with one."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * ctx.saved_tensors[0].cos()


class Custom(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, h: Tensor) -> Tensor:
        return self.function.apply(h)


class Transcribed(Classifier):
    """CTC of the labels against some positions."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Linear(2, CLASSES + 1), nn.LogSoftmax(dim=-1)))

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        scores = self.net(x.view(-1, POSITIONS, 2)).transpose(0, 1)
        lengths = torch.full((len(x),), POSITIONS), torch.ones(len(x), dtype=torch.long)
        return F.ctc_loss(scores, y[:, None] + 1, *lengths)


class Bagged(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(VOCABULARY, WIDTH, **options)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bag(tokens(x)).tanh())


class Distances(nn.Module):
    """To a prototype of each class."""

    def __init__(self) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(CLASSES, FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(x, self.prototypes)


class Partly(Classifier):
    """The optimizer has a frozen weight, and one that the loss does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.net[0].weight.requires_grad_(False)
        self.unused = nn.Linear(2, 2)


class Bank(Classifier):
    """A memory bank and a moving average of its keys, in buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bank", torch.ones(6, CLASSES))
        self.register_buffer("mean", torch.zeros(CLASSES))
        self.register_buffer("at", torch.zeros((), dtype=torch.long))

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        logits = self.net(x)
        loss = F.cross_entropy(logits - self.mean + logits @ self.bank.T @ self.bank, y)
        keys = logits.detach()
        rows = (int(self.at) + torch.arange(len(x))) % len(self.bank)
        self.bank = self.bank.index_copy(0, rows, keys)
        self.at += len(x)
        self.mean.mul_(0.9).add_(keys.mean(dim=0), alpha=0.1)
        return loss


def held_still(module: Any) -> None:
    """Spectral norm: the singular vectors as the first forward pass leaves them."""
    layer = module.net.layer
    layer(torch.zeros(1, WIDTH))
    layer.eval()


WORDS: dict[str, Any] = {"values": "words"}
DIFFERENCE = {"hvp": "difference"}
NO_SECOND = "has no second derivative in torch"

LAYERS = [
    Row("scaled_dot_product_attention", between(Attention)),
    Row("scaled_dot_product_attention, dropout", between(lambda: Attention(0.3))),
    Row(
        "MultiheadAttention",
        between(lambda: nn.MultiheadAttention(WIDTH, 2, dropout=0.1, batch_first=True), call=to_itself),
    ),
    Row("TransformerEncoderLayer", between(encoder())),
    Row("TransformerEncoderLayer, norm_first", between(encoder(norm_first=True, activation="gelu"))),
    Row(
        "TransformerEncoderLayer, positions first",
        between(encoder(batch_first=False), call=positions_first),
    ),
    Row("TransformerEncoderLayer, key padding mask", between(encoder(), call=padded)),
    Row("LSTM", between(lambda: nn.LSTM(WIDTH, WIDTH, batch_first=True))),
    Row(
        "LSTM, two layers, dropout",
        between(lambda: nn.LSTM(WIDTH, WIDTH, 2, dropout=0.2, batch_first=True)),
    ),
    Row(
        "LSTM, bidirectional",
        between(lambda: nn.LSTM(WIDTH, WIDTH // 2, bidirectional=True, batch_first=True)),
    ),
    Row("GRU", between(lambda: nn.GRU(WIDTH, WIDTH, batch_first=True))),
    Row("BatchNorm", flat(lambda: nn.BatchNorm1d(WIDTH))),
    Row("GroupNorm", flat(lambda: nn.GroupNorm(2, WIDTH))),
    Row("LayerNorm", flat(lambda: nn.LayerNorm(WIDTH))),
    Row(
        "InstanceNorm",
        between(
            lambda: nn.InstanceNorm1d(WIDTH, affine=True, track_running_stats=True), call=channels_first
        ),
    ),
    Row(
        "weight_norm, parametrization",
        flat(lambda: parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))),
    ),
    Row("weight_norm, hook", flat(lambda: nn.utils.weight_norm(nn.Linear(WIDTH, WIDTH)))),
    Row(
        "spectral_norm, parametrization",
        flat(lambda: parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH))),
        hold=held_still,
    ),
    Row(
        "spectral_norm, hook",
        flat(lambda: nn.utils.spectral_norm(nn.Linear(WIDTH, WIDTH))),
        hold=held_still,
    ),
    Row("Dropout", flat(lambda: nn.Dropout(0.3))),
    Row("stochastic depth", flat(lambda: StochasticDepth(nn.Linear(WIDTH, WIDTH), each=False))),
    Row(
        "stochastic depth, each example",
        flat(lambda: StochasticDepth(nn.Linear(WIDTH, WIDTH), each=True)),
    ),
    Row("Embedding", of_net(Embedded)),
    Row(
        "Embedding, padding_idx",
        of_net(lambda: Embedded(padding_idx=0)),
        masked={"net.embed.weight": 0},
    ),
    Row("Embedding, max_norm", of_net(lambda: Embedded(max_norm=1.0)), values="finite"),
    Row(
        "Embedding, scale_grad_by_freq",
        of_net(lambda: Embedded(scale_grad_by_freq=True)),
        values="finite",
        says=("products are not symmetric",),
    ),
    Row("Embedding, sparse", lambda: Sparse(Embedded(sparse=True))),
    Row(
        "tied weights",
        of_net(lambda: nn.Sequential(Embedded(tied=True), nn.Linear(VOCABULARY, CLASSES))),
    ),
    Row("unused and frozen parameters", Partly),
    Row("checkpoint", flat(lambda: Checkpointed(reentrant=False))),
    Row("checkpoint, reentrant", flat(lambda: Checkpointed(reentrant=True))),
    Row("autograd.Function", flat(lambda: Custom(Twice))),
    Row(
        "autograd.Function, once_differentiable",
        flat(lambda: Custom(OnlyOnce)),
        says=("OnlyOnce, whose backward is marked once_differentiable",),
        **WORDS,
    ),
    Row("ctc_loss", Transcribed, says=(NO_SECOND,), **WORDS),
    Row("EmbeddingBag", of_net(Bagged), says=(NO_SECOND,), **WORDS),
    Row("cdist", of_net(Distances), says=(NO_SECOND,), **WORDS),
    *(
        Row(f"{name}, hvp='difference'", module, monitor=DIFFERENCE)
        for name, module in {
            "autograd.Function, once_differentiable": flat(lambda: Custom(OnlyOnce)),
            "ctc_loss": Transcribed,
            "EmbeddingBag": of_net(Bagged),
            "EmbeddingBag, sparse": lambda: Sparse(Bagged(sparse=True)),
            "cdist": of_net(Distances),
        }.items()
    ),
    Row("memory bank, moving average in buffers", Bank),
]
