"""Adadelta, whose state after a step no longer holds what that step divided by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from curvwatch.stability.law import Law, Update
from curvwatch.stability.optimizer_state import ascends, number, seen_gradient, steps_taken, wide

# The old weights enter only through weight decay; each round shrinks the error by about lr c / P.
_ROUNDS = 30


def _previous_delta(
    param: Tensor, group: Mapping[str, Any], square: Tensor, delta: Tensor
) -> Tensor | None:
    """D_t-1 from D_t, v_t and the gradient; None if the gradient is gone or not that step's.

    D_t = rho D_t-1 + (1 - rho) (D_t-1 + eps) r with r = g^2/(v_t + eps) is solved for D_t-1.
    g includes weight decay on the weights before the step, which follow from those after it.
    """
    rho, eps, lr = number(group["rho"]), number(group["eps"]), number(group["lr"])
    decay = number(group["weight_decay"])
    after = wide(param)
    weights, previous = after, delta
    for _ in range(_ROUNDS if decay else 1):
        gradient = seen_gradient(param, group, weights)
        if gradient is None:
            return None
        share = gradient.square().div_(square + eps)
        # square >= (1 - rho) g^2 for the gradient of the last step, up to half precision
        if bool((share * (1.0 - rho) > 1.01).any()):
            return None
        previous = ((delta - (1.0 - rho) * eps * share) / (rho + (1.0 - rho) * share)).clamp_(0.0)
        last, weights = weights, after + lr * gradient * ((previous + eps) / (square + eps)).sqrt()
        if torch.allclose(weights, last, rtol=4 * torch.finfo(last.dtype).eps, atol=0.0):
            break
    return previous


def adadelta_update(param: Tensor, group: Mapping[str, Any], state: Mapping[str, Any]) -> Update | None:
    """Adadelta: P = sqrt(v_t + eps) / sqrt(D_t-1 + eps)."""
    if steps_taken(state) == 0:
        return None
    rho, eps = number(group["rho"]), number(group["eps"])
    square, delta = wide(state["square_avg"]), wide(state["acc_delta"])
    previous = _previous_delta(param, group, square, delta)
    note = None
    if previous is None:
        previous = delta
        # D_t + eps lies between rho (D_t-1 + eps) and 2 (D_t-1 + eps)
        note = (
            "the gradient of the last step is gone, so Adadelta's D_t stands for D_t-1: "
            f"P is off by a factor between 0.71 and {rho**-0.5:.3g}"
        )
    return Update(
        lr=number(group["lr"]),
        preconditioner=((square + eps) / (previous + eps)).sqrt_(),
        coupled_decay=number(group["weight_decay"]),
        maximize=ascends(group),
        note=note,
    )


ADADELTA = Law(
    update=adadelta_update,
    formula="edge = 2/lr on P^-1 (H + weight_decay); P = sqrt(v_t + eps)/sqrt(D_t-1 + eps)",
    reference="z = -1 in the recurrence of Zeiler 2012, arXiv:1212.5701",
    holds="v and D change slowly against the oscillation (rho near 1); exact while param.grad "
    "still is the last step's",
)
