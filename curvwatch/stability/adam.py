"""Adam, AMSGrad, AdamW, Adamax, NAdam, RAdam."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from curvwatch.stability.law import Law, Update
from curvwatch.stability.optimizer_state import ascends, number, steps_taken, wide


def adam_update(param: Tensor, group: Mapping[str, Any], state: Mapping[str, Any]) -> Update | None:
    """Adam; its flag ``decoupled_weight_decay`` came with torch 2.7."""
    return _adam(group, state, decoupled=bool(group.get("decoupled_weight_decay", False)))


def adamw_update(param: Tensor, group: Mapping[str, Any], state: Mapping[str, Any]) -> Update | None:
    """AdamW; a class of its own before torch 2.7."""
    return _adam(group, state, decoupled=True)


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


ADAMAX = Law(
    update=adamax_update,
    formula="edge = 2(1 + b1)/((1 - b1) lr) on P^-1 (H + weight_decay); P = (1 - b1^t) u",
    reference="z = -1 in the recurrence of Kingma & Ba 2015, arXiv:1412.6980, section 7.1",
    holds="the running maximum u decays slowly against the oscillation (beta2 near 1)",
)


def nadam_update(param: Tensor, group: Mapping[str, Any], state: Mapping[str, Any]) -> Update | None:
    """Step t adds (1 - mu_t)/(1 - M_t) of the gradient and mu_t+1/(1 - M_t+1) of its average.

    M_t = mu_1 ... mu_t is what the state holds after step t.
    """
    t = steps_taken(state)
    if t == 0:
        return None
    beta1, beta2 = (number(beta) for beta in group["betas"])
    psi = number(group["momentum_decay"])
    mu = beta1 * (1.0 - 0.5 * 0.96 ** (t * psi))
    mu_next = beta1 * (1.0 - 0.5 * 0.96 ** ((t + 1.0) * psi))
    product = number(state["mu_product"])
    of_gradient = (1.0 - mu) / (1.0 - product)
    of_average = mu_next / (1.0 - product * mu_next)
    coupled, past = split_decay(group, bool(group.get("decoupled_weight_decay", False)))
    return Update(
        lr=number(group["lr"]),
        response=of_gradient + of_average * averaging_response(beta1),
        preconditioner=wide(state["exp_avg_sq"]).div(1.0 - beta2**t).sqrt_().add_(number(group["eps"])),
        coupled_decay=coupled,
        decoupled_decay=past,
        maximize=ascends(group),
    )


NADAM = Law(
    update=nadam_update,
    formula=(
        "edge = 2/(lr Q), Q = (1 - mu_t)/(1 - M_t) + mu_t+1/(1 - M_t+1) (1 - b1)/(1 + b1), "
        "mu_t = b1 (1 - 0.96^(t momentum_decay)/2), M_t their product; "
        "2(1 + b1)/(lr (1 + b1 - 2 b1 mu_t)) once M_t is gone; P = sqrt(v/(1 - b2^t)) + eps"
    ),
    reference="z = -1 in the recurrence of Dozat 2016 as torch.optim.NAdam runs it",
    holds="v and mu_t change slowly against the oscillation",
)


def radam_update(param: Tensor, group: Mapping[str, Any], state: Mapping[str, Any]) -> Update | None:
    """RAdam; torch adds eps before the bias correction, not after it as in Adam."""
    t = steps_taken(state)
    if t == 0:
        return None
    beta1, beta2 = (number(beta) for beta in group["betas"])
    square = wide(state["exp_avg_sq"])
    coupled, past = split_decay(group, bool(group.get("decoupled_weight_decay", False)))
    rectified = rectification(beta2, t)
    if rectified is None:
        preconditioner = torch.full_like(square, 1.0 - beta1**t)
    else:
        scale = (1.0 - beta1**t) / (1.0 - beta2**t) ** 0.5
        preconditioner = square.sqrt().add_(number(group["eps"])).mul_(scale)
    return Update(
        lr=number(group["lr"]),
        response=averaging_response(beta1) * (1.0 if rectified is None else rectified),
        preconditioner=preconditioner,
        coupled_decay=coupled,
        decoupled_decay=past,
        maximize=ascends(group),
    )


RADAM = Law(
    update=radam_update,
    formula=(
        "edge = 2(1 + b1)/((1 - b1) lr r_t); "
        "P = (1 - b1^t) (sqrt(v) + eps)/sqrt(1 - b2^t); while rho_t <= 5: r_t = 1, P = 1 - b1^t"
    ),
    reference="z = -1 in the recurrence of Liu et al. 2020, arXiv:1908.03265, as torch.optim.RAdam "
    "runs it",
    holds="v and r_t change slowly against the oscillation; not during the first steps",
)


def rectification(beta2: float, t: float) -> float | None:
    """r_t of Liu et al. 2020, or None while the variance of v is unbounded (rho_t <= 5)."""
    rho_inf = 2.0 / (1.0 - beta2) - 1.0
    rho = rho_inf - 2.0 * t * beta2**t / (1.0 - beta2**t)
    if rho <= 5.0:
        return None
    above = (rho - 4.0) * (rho - 2.0) * rho_inf
    below = (rho_inf - 4.0) * (rho_inf - 2.0) * rho
    return float((above / below) ** 0.5)


def averaging_response(beta: float) -> float:
    """Q(-1) of an exponential moving average: (1 - b) / (1 + b)."""
    return (1.0 - beta) / (1.0 + beta)


def split_decay(group: Mapping[str, Any], decoupled: bool) -> tuple[float, float]:
    """The weight decay of a group as (coupled, decoupled)."""
    decay = number(group["weight_decay"])
    return (0.0, decay) if decoupled else (decay, 0.0)
