"""RMSprop (plain, centered, with momentum), Adagrad and Adadelta."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from curvwatch.stability.law import Law, Update
from curvwatch.stability.optimizer_state import (
    ascends,
    check_momentum,
    number,
    seen_gradient,
    steps_taken,
    wide,
)


def rmsprop_update(param: Tensor, group: Mapping[str, Any], state: Mapping[str, Any]) -> Update | None:
    """RMSprop; with momentum it sums already preconditioned gradients, the same to first order."""
    if steps_taken(state) == 0:
        return None
    momentum = number(group["momentum"])
    check_momentum(momentum)
    square = wide(state["square_avg"])
    if group["centered"]:
        mean = wide(state["grad_avg"])
        # v >= mean^2 but for rounding, which is coarser in the optimizer's own precision
        square = square.addcmul(mean, mean, value=-1.0).clamp_(min=0.0)
    return Update(
        lr=number(group["lr"]),
        response=1.0 / (1.0 + momentum),
        preconditioner=square.sqrt().add_(number(group["eps"])),
        coupled_decay=number(group["weight_decay"]),
        maximize=ascends(group),
    )


RMSPROP = Law(
    update=rmsprop_update,
    formula=(
        "edge = 2(1 + m)/lr on P^-1 (H + weight_decay); "
        "P = sqrt(v) + eps, centered: sqrt(v - mean^2) + eps"
    ),
    reference="Cohen et al. 2022, arXiv:2207.14484; momentum and centered: z = -1 in the "
    "recurrence of Graves 2013, arXiv:1308.0850",
    holds="v changes slowly against the oscillation (alpha near 1)",
)


def adagrad_update(param: Tensor, group: Mapping[str, Any], state: Mapping[str, Any]) -> Update | None:
    """Adagrad; its state exists from the start, with step 0."""
    t = steps_taken(state)
    if t == 0:
        return None
    return Update(
        lr=number(group["lr"]) / (1.0 + (t - 1.0) * number(group["lr_decay"])),
        preconditioner=wide(state["sum"]).sqrt().add_(number(group["eps"])),
        coupled_decay=number(group["weight_decay"]),
        maximize=ascends(group),
    )


ADAGRAD = Law(
    update=adagrad_update,
    formula=("edge = 2 (1 + (t - 1) lr_decay)/lr on P^-1 (H + weight_decay); P = sqrt(sum) + eps"),
    reference="Cohen et al. 2022, arXiv:2207.14484",
    holds="the sum is large against one squared gradient; it only grows, so runs often move "
    "away from the edge",
)


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
