"""Adam, AMSGrad, AdamW, Adamax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from curvwatch.stability.law import Law, Update
from curvwatch.stability.optimizer_state import ascends, number, steps_taken, wide


def averaging_response(beta: float) -> float:
    """Q(-1) of an exponential moving average: (1 - b) / (1 + b)."""
    return (1.0 - beta) / (1.0 + beta)


def split_decay(group: Mapping[str, Any], decoupled: bool) -> tuple[float, float]:
    """The weight decay of a group as (coupled, decoupled)."""
    decay = number(group["weight_decay"])
    return (0.0, decay) if decoupled else (decay, 0.0)


def _adam(group: Mapping[str, Any], state: Mapping[str, Any], *, decoupled: bool) -> Update | None:
    t = steps_taken(state)
    if t == 0:
        return None
    beta1, beta2 = (number(beta) for beta in group["betas"])
    square = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    coupled, past = split_decay(group, decoupled)
    root = wide(square).sqrt() / (1.0 - beta2**t) ** 0.5
    return Update(
        lr=number(group["lr"]),
        response=averaging_response(beta1),
        preconditioner=root.add_(number(group["eps"])).mul_(1.0 - beta1**t),
        coupled_decay=coupled,
        decoupled_decay=past,
        maximize=ascends(group),
    )


def adam_update(param: Tensor, group: Mapping[str, Any], state: Mapping[str, Any]) -> Update | None:
    """Adam; its flag ``decoupled_weight_decay`` came with torch 2.7."""
    return _adam(group, state, decoupled=bool(group.get("decoupled_weight_decay", False)))


def adamw_update(param: Tensor, group: Mapping[str, Any], state: Mapping[str, Any]) -> Update | None:
    """AdamW; a class of its own before torch 2.7."""
    return _adam(group, state, decoupled=True)


def adamax_update(param: Tensor, group: Mapping[str, Any], state: Mapping[str, Any]) -> Update | None:
    """Adamax; eps is already inside the running maximum."""
    t = steps_taken(state)
    if t == 0:
        return None
    beta1 = number(group["betas"][0])
    return Update(
        lr=number(group["lr"]),
        response=averaging_response(beta1),
        preconditioner=wide(state["exp_inf"]) * (1.0 - beta1**t),
        coupled_decay=number(group["weight_decay"]),
        maximize=ascends(group),
    )


_HOLDS = "v changes slowly against the oscillation (beta2 near 1)"

ADAM = Law(
    update=adam_update,
    formula=(
        "edge = 2(1 + b1)/((1 - b1) lr) on P^-1 (H + weight_decay); "
        "P = (1 - b1^t) (sqrt(v/(1 - b2^t)) + eps), amsgrad: the running maximum of v"
    ),
    reference="Cohen et al. 2022, arXiv:2207.14484",
    holds=_HOLDS,
)

ADAMW = Law(
    update=adamw_update,
    formula=(
        "edge = (1 + b1)(2 - lr weight_decay)/((1 - b1) lr); "
        "P = (1 - b1^t) (sqrt(v/(1 - b2^t)) + eps), amsgrad: the running maximum of v"
    ),
    reference="Cohen et al. 2022, arXiv:2207.14484; decay: z = -1 in the recurrence of "
    "Loshchilov & Hutter 2019, arXiv:1711.05101",
    holds=_HOLDS,
)

ADAMAX = Law(
    update=adamax_update,
    formula="edge = 2(1 + b1)/((1 - b1) lr) on P^-1 (H + weight_decay); P = (1 - b1^t) u",
    reference="z = -1 in the recurrence of Kingma & Ba 2015, arXiv:1412.6980, section 7.1",
    holds="the running maximum u decays slowly against the oscillation (beta2 near 1)",
)
