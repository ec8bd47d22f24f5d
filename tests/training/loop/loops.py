"""A plain loop, as the tests run it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvwatch import Watch
from tests.support.modules import CLASSES, FEATURES, TIMES, batches, sgd


def normalised() -> nn.Sequential:
    """BatchNorm and dropout: its loss depends on the batch, on buffers and on random numbers."""
    return nn.Sequential(
        nn.Linear(FEATURES, 8),
        nn.BatchNorm1d(8),
        nn.Tanh(),
        nn.Dropout(0.3),
        nn.Linear(8, CLASSES),
    )


def loss_fn(net: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(net(x), y)


def nothing(*_: Any, **__: Any) -> None: ...


def loop(
    net: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    data: Iterable[Any] | None = None,
    watch: Watch | None = None,
    accumulate: int = 1,
    clip: Callable[[Iterable[Tensor]], Any] = nothing,
    seen: Callable[[], None] = nothing,
) -> list[dict[str, float]]:
    """Train; what each `watch.step` returned. `seen()` is called after each step."""
    optimizer = optimizer or sgd(net.parameters())
    taken: list[Any] = []
    readings = []
    for batch in batches() if data is None else data:
        (loss_fn(net, batch) / accumulate).backward()
        taken.append(batch)
        if len(taken) < accumulate:
            continue
        clip(net.parameters())
        optimizer.step()
        optimizer.zero_grad()
        if watch is not None:
            readings.append(watch.step(*taken))
        taken = []
        seen()
    return readings


def without_times(history: Any) -> dict[str, Any]:
    return {name: series for name, series in history.to_dict().items() if name not in TIMES}
