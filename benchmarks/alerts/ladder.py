"""The largest learning rate at which a task still trains: rungs of 2, each a short plain run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from benchmarks.alerts.tasks import TASKS

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "rmsprop")
STEPS = 120
BEGINS = {"sgd": 2**-4, "momentum": 2**-6, "adam": 2**-10, "adamw": 2**-10, "rmsprop": 2**-12}


def make_optimizer(
    name: str,
    params: Iterable[Tensor],
    rate: float,
    *,
    b2: float | None = None,
    eps: float = 1e-8,
) -> Optimizer:
    """The optimizer called `name`; `b2` and `eps` are of the adaptive ones."""
    if name == "sgd":
        return SGD(params, lr=rate)
    if name == "momentum":
        return SGD(params, lr=rate, momentum=0.9)
    if name == "rmsprop":
        return RMSprop(params, lr=rate, alpha=b2 or 0.99, eps=eps)
    kind = {"adam": Adam, "adamw": AdamW}[name]
    return kind(params, lr=rate, betas=(0.9, b2 or 0.999), eps=eps)


def trains(task: str, optimizer: str, rate: float, *, seed: int) -> bool:
    """Whether the loss ends under its start and was never over 3 times it."""
    torch.manual_seed(seed)
    made = TASKS[task]
    net = made.net()
    stepping = make_optimizer(optimizer, net.parameters(), rate)
    generator = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    for _ in range(STEPS):
        x, y = made.batch(generator)
        loss = made.loss(net(x), y)
        losses.append(float(loss.detach()))
        if not losses[-1] <= 3 * losses[0]:
            return False
        stepping.zero_grad()
        loss.backward()
        stepping.step()
    return sum(losses[-10:]) / 10 < 0.9 * losses[0]


def largest(task: str, optimizer: str, *, seeds: Iterable[int] = (0, 1)) -> float:
    """The last rung before the first at which a seed fails."""
    rate, seeds = BEGINS[optimizer], tuple(seeds)
    while all(trains(task, optimizer, rate, seed=s) for s in seeds):
        rate *= 2
        if not math.isfinite(rate):
            raise ValueError(f"{task} {optimizer}: trains at any rate")
    return rate / 2


def main() -> None:
    """Print the table that `grid.py` holds."""
    torch.set_num_threads(1)
    found = {task: {o: largest(task, o) for o in OPTIMIZERS} for task in TASKS}
    print(json.dumps(found, indent=4))


if __name__ == "__main__":
    main()
