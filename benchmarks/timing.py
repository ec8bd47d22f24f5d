"""Time of this process on the CPU: what others on the machine do counts little."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.workloads import Batch, Task


def seconds_of(call: Callable[[], Any], *, times: int = 1) -> float:
    """The median of `times` calls."""
    taken = []
    for _ in range(times):
        begin = time.process_time()
        call()
        taken.append(time.process_time() - begin)
    return statistics.median(taken)


def gradient_seconds(task: Task, batch: Batch, *, times: int = 3) -> float:
    """Of one gradient as training makes it: the unit of every cost."""
    weights = [p for p in task.parameters() if p.requires_grad]
    return seconds_of(lambda: torch.autograd.grad(task.training_step(batch), weights), times=times)
