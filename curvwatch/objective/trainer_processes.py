"""Reductions over the processes of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import lightning.pytorch as pl


def averager(trainer: pl.Trainer) -> Callable[[Tensor], Tensor] | None:
    """A function that averages a tensor over all processes, or None where there is only one."""
    if trainer.world_size == 1 or not torch.distributed.is_initialized():
        return None

    def average(value: Tensor) -> Tensor:
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total / trainer.world_size

    return average
