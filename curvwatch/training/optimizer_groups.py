"""The parameter groups of an optimizer: what it trains, at which learning rate, by which gradient."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _default_to_fused_or_foreach

from curvwatch.objective.processes import local


def trained(optimizer: Optimizer) -> list[Tensor]:
    """The parameters of `optimizer` with requires_grad, each once, in the order of its groups."""
    unique = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    return [p for p in unique.values() if p.requires_grad]


def rate_of(group: dict[str, Any]) -> float:
    """The learning rate of `group`; nan where the optimizer has none, or finds its own."""
    rate = group.get("lr")
    return math.nan if rate is None else float(rate)


def gradient_of(optimizer: Optimizer) -> dict[int, Tensor]:
    """The present gradients by `id(parameter)`; of a sharded one the part of this process."""
    # dense: that of an embedding may be sparse
    return {id(p): local(p.grad).detach().to_dense() for p in trained(optimizer) if p.grad is not None}


def gradient_used(optimizer: Optimizer) -> dict[int, Tensor]:
    """The gradient that the last step was made with."""
    used = gradient_of(optimizer)
    if not isinstance(optimizer, torch.optim.SGD):
        return used
    # SGD's foreach step with Nesterov momentum, the default on CUDA, adds the momentum to .grad
    for group in optimizer.param_groups:
        if group["nesterov"] and _by_foreach(group):
            for p in group["params"]:
                buffer = optimizer.state[p].get("momentum_buffer")
                if id(p) in used and buffer is not None:
                    used[id(p)] = used[id(p)] - group["momentum"] * local(buffer)
    return used


def _by_foreach(group: dict[str, Any]) -> bool:
    """Whether torch steps this group of SGD's by its foreach functions (read in 2.4 to 2.13)."""
    if group.get("fused") or group["differentiable"]:
        return False
    if group["foreach"] is not None:
        return bool(group["foreach"])
    _, foreach = _default_to_fused_or_foreach(group["params"], False, use_fused=False)
    return bool(foreach)
