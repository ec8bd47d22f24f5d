"""Suffixes of metric names where a run has several optimizers or groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch.optim import Optimizer


def optimizer_suffixes(optimizers: Sequence[Optimizer]) -> list[str]:
    """Nothing for a single optimizer, else "-Adam", "-SGD", "-SGD-1" as LearningRateMonitor has it."""
    if len(optimizers) == 1:
        return [""]
    seen: Counter[str] = Counter()
    suffixes = []
    for optimizer in optimizers:
        name = type(optimizer).__name__
        suffixes.append(f"-{name}-{seen[name]}" if seen[name] else f"-{name}")
        seen[name] += 1
    return suffixes


def group_suffixes(optimizer: Optimizer) -> list[str]:
    """The suffixes "/pg1", "/pg2", ... or the groups' names; none for a single group."""
    groups = optimizer.param_groups
    if len(groups) == 1:
        return []
    return [f"/{group.get('name', f'pg{i}')}" for i, group in enumerate(groups, start=1)]
