"""Weights that are spread over processes: DTensors, of FSDP2 and of tensor parallelism."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor


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
