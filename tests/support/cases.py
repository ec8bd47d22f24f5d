"""Small models in float64 with a loss, and their dense Hessian from another piece of code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F


class Attention(nn.Module):
    """A transformer block; `by_hand` writes the attention out instead of calling the kernel."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Embedding(11, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 11)
        self.by_hand = False

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        b, t, c = x.shape
        q, k, v = (
            part.view(b, t, self.heads, c // self.heads).transpose(1, 2)
            for part in self.qkv(self.norm(x)).split(c, dim=-1)
        )
        if self.by_hand:
            scores = q @ k.transpose(-1, -2) / (c // self.heads) ** 0.5
            mask = torch.ones(t, t, dtype=torch.bool).tril()
            y = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, c))
        return self.head(x)


@dataclass(frozen=True)
class Case:
    """A model, a loss of its output and the target, and a batch."""

    name: str
    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    batch: Callable[[int], tuple[Tensor, Tensor]]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.GELU(), nn.Linear(7, 4))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.SiLU(),
        nn.Conv2d(3, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(36, 4),
    )


def _features(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 6), torch.randint(0, 4, (n,))


def _regression(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 6), torch.randn(n, 4)


def _images(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 1, 8, 8), torch.randint(0, 4, (n,))


def _tokens(n: int) -> tuple[Tensor, Tensor]:
    return torch.randint(0, 11, (n, 5)), torch.randint(0, 11, (n, 5))


def _token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


CASES = {
    c.name: c
    for c in (
        Case("mlp_cross_entropy", mlp, F.cross_entropy, _features),
        Case("mlp_mse", mlp, F.mse_loss, _regression),
        Case("cnn_batchnorm", cnn, F.cross_entropy, _images),
        Case("transformer_sdpa", Attention, _token_loss, _tokens),
    )
}


@dataclass
class Dense:
    """f, g and H of a case at given weights, by torch.func and the model written out."""

    loss: float
    gradient: Tensor
    hessian: Tensor


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1) for t in tensors])


def dense(case: Case, model: nn.Module, batches: list[tuple[Tensor, Tensor]], at: Tensor) -> Dense:
    """Mean loss over all examples of `batches`, each batch with batch statistics of its own."""
    if isinstance(model, Attention):
        model.by_hand = True
    names = [n for n, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    total = sum(len(x) for x, _ in batches)

    def f(w: Tensor) -> Tensor:
        parts = w.split([s.numel() for s in shapes])
        weights = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        buffers = {n: b.clone() for n, b in model.named_buffers()}
        losses = [
            case.loss(functional_call(model, {**weights, **buffers}, (x,)), y) * len(x) / total
            for x, y in batches
        ]
        return torch.stack(losses).sum()

    w = at.clone().requires_grad_()
    loss = f(w)
    (gradient,) = torch.autograd.grad(loss, w, create_graph=True)
    rows = torch.eye(len(w), dtype=w.dtype)
    (hessian,) = torch.autograd.grad(gradient, w, rows, is_grads_batched=True)
    if isinstance(model, Attention):
        model.by_hand = False
    return Dense(float(loss.detach()), gradient.detach(), (hessian + hessian.T) / 2)
