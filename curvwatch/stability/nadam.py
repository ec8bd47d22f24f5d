"""NAdam, whose momentum drifts over thousands of steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from curvwatch.stability.adam import averaging_response, split_decay
from curvwatch.stability.law import Law, Update
from curvwatch.stability.optimizer_state import ascends, number, steps_taken, wide


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
