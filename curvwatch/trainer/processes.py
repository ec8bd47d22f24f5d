"""Reductions over the processes of a run."""

from __future__ import annotations

from collections.abc import Callable

import lightning.pytorch as pl
import torch
from torch import Tensor


def averager(trainer: pl.Trainer) -> Callable[[Tensor], Tensor] | None:
    """A function that averages a tensor over all processes, or None where there is only one."""
    if trainer.world_size == 1 or not torch.distributed.is_initialized():
        return None

    def average(value: Tensor) -> Tensor:
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total / trainer.world_size

    return average
