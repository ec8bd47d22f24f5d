"""Reading numbers out of an optimizer's groups and states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from curvwatch.stability.law import NoLaw


def number(value: float | Tensor) -> float:
    """A setting as a float; learning rates, betas and step counts may be tensors."""
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


def steps_taken(state: Mapping[str, Any]) -> float:
    """How often the parameter was stepped; 0 without a state."""
    return number(state.get("step", 0.0))


def ascends(group: Mapping[str, Any]) -> bool:
    """Whether a group goes uphill; not every optimizer of torch 2.4 had the flag."""
    return bool(group.get("maximize", False))


def wide(tensor: Tensor) -> Tensor:
    """The tensor without its graph, in float32 or wider: eps = 1e-8 vanishes in half precision."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def seen_gradient(param: Tensor, group: Mapping[str, Any], weights: Tensor) -> Tensor | None:
    """The gradient as the last step used it, coupled decay and ascent included.

    Args:
        param: the parameter; ``param.grad`` is taken for the last step's.
        group: its group.
        weights: the weights before that step, the parameter's shape.

    Returns:
        The gradient in float32 or wider, or None if ``param.grad`` is gone.
    """
    if param.grad is None:
        return None
    gradient = wide(param.grad)
    if ascends(group):
        gradient = -gradient
    return gradient.add(weights, alpha=number(group.get("weight_decay", 0.0)))


def check_momentum(momentum: float) -> None:
    """Refuse a momentum that diverges by itself.

    Raises:
        NoLaw: if it is not in [0, 1).
    """
    if not 0.0 <= momentum < 1.0:
        raise NoLaw(f"momentum is {momentum:g}: from 1 on the weights diverge at any curvature")
