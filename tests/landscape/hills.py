"""Losses with formulas, and modules small enough for many evaluations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvwatch.landscape import FunctionSurface, surface_of


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def surface(function: Any, size: int = 2) -> FunctionSurface:
    return FunctionSurface(function, torch.zeros(size, dtype=torch.float64))


def bent_valley(w: Tensor) -> Tensor:
    """Minima at (-1, 0) and (1, 0), loss 0; the saddle between them is (0, 1), loss 1."""
    x, y = w
    return (x**2 - 1) ** 2 + 5 * (y + x**2 - 1) ** 2


def mueller_brown(w: Tensor) -> Tensor:
    """Mueller & Brown (1979)."""
    A, a, b = f64(-200, -100, -170, 15), f64(-1, -1, -6.5, 0.7), f64(0, 0, 11, 0.6)
    c, x0, y0 = f64(-10, -10, -6.5, 0.7), f64(1, 0, -0.5, -1), f64(0, 0.5, 1.5, 1)
    dx, dy = w[0] - x0, w[1] - y0
    return (A * torch.exp(a * dx**2 + b * dx * dy + c * dy**2)).sum()


# its two deepest minima and the higher saddle between them, by Newton's method
MB_ENDS = f64(-0.558223634633024, 1.441725841804669), f64(0.623499404930877, 0.028037758528718)
MB_SADDLE, MB_HEIGHT = (-0.8220015587, 0.6243128028), -40.6648435086


def cross_entropy(module: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(module(x), y)


def images(n: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.arange(n) % 3


def cnn() -> nn.Sequential:
    """With batch norm whose statistics are not those of a new one."""
    net = nn.Sequential(
        nn.Conv2d(1, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(5, 4, 3, padding=1), nn.GroupNorm(1, 4), nn.PReLU(4)),
        nn.Conv2d(4, 4, 3, groups=4, padding=1),
        nn.Tanh(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(64, 6),
        nn.LayerNorm(6),
        nn.GELU(),
        nn.Linear(6, 3),
    ).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)
        for _ in range(3):
            net(images()[0])
    return net


def surface_of_net(net: nn.Module, batch: tuple[Tensor, Tensor], parts: int = 1, **options: Any) -> Any:
    x, y = batch
    size = len(x) // parts
    batches = list(zip(x.split(size), y.split(size), strict=True))
    return surface_of(net, batches, loss_fn=cross_entropy, **options)
