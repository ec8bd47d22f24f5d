"""Adafactor as torch.optim runs it: factored v, step relative to the weights, clipped update."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from curvwatch.stability.law import Law, Update
from curvwatch.stability.optimizer_state import ascends, number, steps_taken, wide

GONE = (
    "the gradient of the last step is gone: Adafactor's clipping of the update is taken as "
    "inactive and its scale from the weights after the step"
)
CLIPPED = (
    "Adafactor clipped its last update; the factor is treated as constant, as with gradient "
    "clipping by norm"
)
LARGE = (
    "Adafactor's last step was larger than the weights: its scale is taken from the weights after "
    "the step"
)


def _rms(tensor: Tensor) -> float:
    return number(tensor.norm(2)) / math.sqrt(tensor.numel())


def _root(param: Tensor, eps1: float, state: Mapping[str, Any]) -> Tensor:
    """max(sqrt(v), eps1), v from row and column means for two and more dimensions."""
    if "variance" in state:
        variance = wide(state["variance"])
    else:
        row, column = wide(state["row_var"]), wide(state["col_var"])
        variance = row @ column / row.mean(dim=-2, keepdim=True).clamp_(min=eps1)
    return variance.clamp(min=eps1 * eps1).sqrt_()


def _scale_before(after: Tensor, step: Tensor, eps2: float, keep: float) -> float | None:
    """max(eps2, RMS of the weights before the step), from the weights after it.

    The scale r solves r = max(eps2, RMS(after + r step) / keep), a quadratic equation.

    Args:
        after: weights after the step.
        step: what the step took off per unit of that scale, the same shape.
        eps2: smallest scale.
        keep: |1 - lr c|, what decoupled decay left of the weights.

    Returns:
        The scale; None where the step is larger than the weights, so that r is not unique.
    """
    square = keep**2 - _rms(step) ** 2
    if square <= 0.0:
        return None
    if _rms(after + eps2 * step) <= keep * eps2:
        return eps2
    linear = number((after * step).mean())
    return (linear + math.sqrt(linear**2 + square * _rms(after) ** 2)) / square


def adafactor_update(
    param: Tensor, group: Mapping[str, Any], state: Mapping[str, Any]
) -> Update | None:
    """The step is min(lr, 1/sqrt(t)) scale / clip of g / root; P gathers what is not lr."""
    t = steps_taken(state)
    if t == 0:
        return None
    lr, decay = number(group["lr"]), number(group["weight_decay"])
    eps1, eps2 = group["eps"]
    eps1 = torch.finfo(param.dtype).eps if eps1 is None else number(eps1)
    relative = min(lr, t**-0.5)
    root = _root(param, eps1, state)
    after = wide(param)
    keep = abs(1.0 - lr * decay) or 1.0  # a decay that leaves nothing has no inverse
    clip, scale, notes = 1.0, None, []
    if param.grad is None:
        notes.append(GONE)
    else:
        update = wide(param.grad) / root
        clip = max(1.0, _rms(update) / number(group["d"]))
        sign = -1.0 if ascends(group) else 1.0
        scale = _scale_before(after, update * (sign * relative / clip), number(eps2), keep)
        notes += [CLIPPED] if clip > 1.0 else []
        notes += [LARGE] if scale is None else []
    if scale is None:
        scale = max(number(eps2), _rms(after) / keep)
    still = lr == 0.0 or scale == 0.0
    return Update(
        lr=0.0 if still else lr,
        preconditioner=None if still else root.mul_(clip * lr / (scale * relative)),
        decoupled_decay=decay,
        maximize=ascends(group),
        note="; ".join(notes) or None,
    )


ADAFACTOR = Law(
    update=adafactor_update,
    formula=(
        "edge = (2 - lr weight_decay)/lr; P = max(sqrt(v), eps1) max(1, RMS(U)/d) lr / "
        "(max(eps2, RMS(w)) min(lr, 1/sqrt(t))), v factored, U = g/max(sqrt(v), eps1)"
    ),
    reference="z = -1 in the recurrence of Shazeer & Stern 2018, arXiv:1804.04235, as "
    "torch.optim.Adafactor runs it",
    holds="v, RMS(w) and the clipping factor change slowly; exact while param.grad still is the "
    "last step's",
)
