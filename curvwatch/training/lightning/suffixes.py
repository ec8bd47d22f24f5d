"""Suffixes of several optimizers, equal to those of LearningRateMonitor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

if TYPE_CHECKING:
    import lightning.pytorch as pl


def monitor_suffixes(trainer: pl.Trainer, optimizers: Sequence[Optimizer]) -> list[str]:
    """Nothing for a single optimizer, else what follows "lr" in LearningRateMonitor's names.

    It numbers optimizers of one class, those of schedulers first, and takes a scheduler's own name.
    (Read in 2.2 to 2.6.) Where two of its names are equal, ours get numbers.
    """
    if len(optimizers) == 1:
        return [""]
    counts: Counter[type] = Counter()
    names: dict[int, str] = {}

    def see(optimizer: Any, name: str | None) -> None:
        kind = type(optimizer)
        counts[kind] += name is None
        number = f"-{counts[kind] - 1}" if counts[kind] > 1 else ""
        # of several schedulers of one optimizer the first
        names.setdefault(id(optimizer), f"{name or kind.__name__}{number}")

    for config in trainer.lr_scheduler_configs:
        see(config.scheduler.optimizer, config.name)
    for optimizer in trainer.optimizers:
        if id(optimizer) not in names:
            see(optimizer, None)
    return _distinct([f"-{names[id(optimizer)]}" for optimizer in optimizers])


def _distinct(names: Sequence[str]) -> list[str]:
    result: list[str] = []
    for name in names:
        number, distinct = 0, name
        while distinct in result:
            number += 1
            distinct = f"{name}-{number}"
        result.append(distinct)
    return result
