"""RMSprop (plain, centered, with momentum) and Adagrad."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from curvwatch.stability.law import Law, Update
from curvwatch.stability.optimizer_state import ascends, check_momentum, number, steps_taken, wide


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

ADAGRAD = Law(
    update=adagrad_update,
    formula=("edge = 2 (1 + (t - 1) lr_decay)/lr on P^-1 (H + weight_decay); P = sqrt(sum) + eps"),
    reference="Cohen et al. 2022, arXiv:2207.14484",
    holds="the sum is large against one squared gradient; it only grows, so the edge is often "
    "left behind",
)
