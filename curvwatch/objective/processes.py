"""Reductions over the processes of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


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
