"""The processes of a run, how they communicate, and weights that are spread over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from curvwatch.errors import CurvwatchError


@dataclass(frozen=True)
class Processes:
    """The processes of a run; every method is called on all of them, in the same order.

    Attributes:
        size: how many there are.
        rank: which of them this is.
        group: the `torch.distributed` process group; None: all processes.
        device: where numbers that are sent are put.
        have_own_batches: whether each has batches of its own; with sharded weights the loss of a batch
            is the mean over processes already.
    """

    size: int = 1
    rank: int = 0
    group: Any = None
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    have_own_batches: bool = True

    @classmethod
    def of_group(cls, group: Any = None) -> Processes:
        """Those of `group`; this one alone where torch.distributed is not in use."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return cls()
        size = torch.distributed.get_world_size(group)
        return cls(size, torch.distributed.get_rank() if size > 1 else 0, group)

    @property
    def with_own_batches(self) -> int:
        """How many processes have batches of their own."""
        return self.size if self.have_own_batches else 1

    def mean(self, value: Tensor) -> Tensor:
        """The mean of `value` over the processes, of the same shape."""
        if self.size == 1:
            return value
        total = value.clone()
        torch.distributed.all_reduce(total, group=self.group)
        return total / self.size

    def mean_of(self, values: Sequence[float]) -> list[float]:
        """The mean over the processes of each of `values`, so that all act alike."""
        if self.size == 1:
            return list(values)
        means: list[float] = self.mean(
            torch.tensor(values, dtype=torch.float32, device=self.device)
        ).tolist()
        return means

    def true_on_all(self, flags: Sequence[bool]) -> list[bool]:
        """For each of `flags` whether it holds on every process."""
        return [share == 1.0 for share in self.mean_of([float(flag) for flag in flags])]

    def true_on_any(self, flag: bool) -> bool:
        """Whether `flag` holds on some process."""
        return self.mean_of([float(flag)])[0] > 0

    def run_together(self, compute: Callable[[], Tensor]) -> Tensor:
        """Run `compute`; when it fails on one process it fails on all, so that none waits for ever.

        Raises:
            CurvwatchError: it failed on another process.
        """
        if self.size == 1:
            return compute()
        failure: Exception | None = None
        result = None
        try:
            result = compute()
        except Exception as error:
            failure = error
        failed = self.true_on_any(failure is not None)
        if failure is not None:
            raise failure
        if failed or result is None:
            raise CurvwatchError("the reading failed on another process, whose warning says why")
        return result


def is_sharded(t: Any) -> bool:
    """Whether `t` is a DTensor; by its attributes, for its module differs between versions of torch."""
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
