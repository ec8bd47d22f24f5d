"""Reductions over the processes of a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    import lightning.pytorch as pl


def average_over(group: Any = None) -> Callable[[Tensor], Tensor] | None:
    """A function that averages a tensor over the processes of `group`, None where there is only one.

    Args:
        group: a `torch.distributed` process group; None: all processes.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    count = torch.distributed.get_world_size(group)
    if count == 1:
        return None

    def average(value: Tensor) -> Tensor:
        total = value.clone()
        torch.distributed.all_reduce(total, group=group)
        return total / count

    return average


def averager(trainer: pl.Trainer) -> Callable[[Tensor], Tensor] | None:
    """A function that averages a tensor over all processes, or None where there is only one."""
    if trainer.world_size == 1 or not torch.distributed.is_initialized():
        return None

    def average(value: Tensor) -> Tensor:
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total / trainer.world_size

    return average


def is_sharded(t: Any) -> bool:
    """Whether `t` is a DTensor; by its looks, for its place moved between versions of torch."""
    return isinstance(t, Tensor) and hasattr(t, "to_local") and hasattr(t, "placements")


def local(t: Tensor) -> Tensor:
    """The part of `t` that this process holds, sharing its memory; `t` itself where it is whole."""
    return cast(Any, t).to_local() if is_sharded(t) else t


def holders(t: Tensor) -> int:
    """How many processes hold the same part of the DTensor `t`."""
    placed = cast(Any, t)
    return math.prod(
        placed.device_mesh.size(i) for i, p in enumerate(placed.placements) if p.is_replicate()
    )


def summed(t: Tensor) -> Tensor:
    """The sum of `t` over all processes, in place."""
    torch.distributed.all_reduce(t)
    return t
