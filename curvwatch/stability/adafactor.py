"""Adafactor as torch.optim runs it: factored v, step relative to the weights, clipped update."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from curvwatch.stability.law import Law, Update
from curvwatch.stability.state import number, steps_taken, wide

# Each round shrinks the error by the relative step size, at most 1 and as a rule 0.01.
_ROUNDS = 50


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


def _scale_before(after: Tensor, step: Tensor, eps2: float, keep: float) -> float:
    """max(eps2, RMS of the weights before the step) from the weights after it.

    Args:
        after: weights after the step.
        step: what the step took off per unit of that scale, the same shape.
        eps2: smallest scale.
        keep: |1 - lr c|, what decoupled decay left of the weights.
    """
    scale = max(eps2, _rms(after) / keep)
    for _ in range(_ROUNDS):
        last, scale = scale, max(eps2, _rms(after + scale * step) / keep)
        if abs(scale - last) <= 1e-14 * scale:
            break
    return scale


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
    keep = abs(1.0 - lr * decay) or 1.0  # a decay that leaves nothing cannot be undone
    note = None
    if param.grad is None:
        clip, scale = 1.0, max(number(eps2), _rms(after) / keep)
        note = (
            "the gradient of the last step is gone: Adafactor's clipping of the update is taken "
            "as inactive and its scale from the weights after the step"
        )
    else:
        update = wide(param.grad) / root
        clip = max(1.0, _rms(update) / number(group["d"]))
        sign = -1.0 if group["maximize"] else 1.0
        scale = _scale_before(after, update * (sign * relative / clip), number(eps2), keep)
        if clip > 1.0:
            note = (
                f"Adafactor clipped its last update by {1.0 / clip:.3g}; the factor is taken as "
                "held still, as with gradient clipping by norm"
            )
    still = lr == 0.0 or scale == 0.0
    return Update(
        lr=0.0 if still else lr,
        preconditioner=None if still else root.mul_(clip * lr / (scale * relative)),
        decoupled_decay=decay,
        maximize=bool(group["maximize"]),
        note=note,
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
