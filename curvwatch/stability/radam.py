"""RAdam: rectified Adam, and momentum SGD during its first steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from curvwatch.stability.adam import averaging_response, split_decay
from curvwatch.stability.law import Law, Update
from curvwatch.stability.optimizer_state import ascends, number, steps_taken, wide


def rectification(beta2: float, t: float) -> float | None:
    """r_t of Liu et al. 2020, or None while the variance of v is unbounded (rho_t <= 5)."""
    rho_inf = 2.0 / (1.0 - beta2) - 1.0
    rho = rho_inf - 2.0 * t * beta2**t / (1.0 - beta2**t)
    if rho <= 5.0:
        return None
    above = (rho - 4.0) * (rho - 2.0) * rho_inf
    below = (rho_inf - 4.0) * (rho_inf - 2.0) * rho
    return float((above / below) ** 0.5)


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
