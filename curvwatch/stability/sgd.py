"""SGD: plain, heavy ball, dampened, Nesterov."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from curvwatch.stability.law import Law, NoLaw, Update
from curvwatch.stability.optimizer_state import ascends, check_momentum, number


def sgd_update(param: Tensor, group: Mapping[str, Any], state: Mapping[str, Any]) -> Update:
    """Q(z) = (1 - t) / (1 - m/z), with Nesterov 1 + m (1 - t) / (1 - m/z).

    The first step of torch is not dampened; that is a transient and does not move the edge.
    """
    momentum = number(group["momentum"])
    check_momentum(momentum)
    response = 1.0
    if momentum > 0.0:  # without momentum torch ignores dampening
        dampening = number(group["dampening"])
        if dampening >= 1.0:
            raise NoLaw(f"dampening is {dampening:g}: from 1 on no gradient passes")
        response = (1.0 - dampening) / (1.0 + momentum)
        if group["nesterov"]:
            response = 1.0 + momentum * response
    return Update(
        lr=number(group["lr"]),
        response=response,
        coupled_decay=number(group["weight_decay"]),
        maximize=ascends(group),
    )


SGD = Law(
    update=sgd_update,
    formula=(
        "edge = 2(1 + m)/((1 - dampening) lr), Nesterov 2(1 + m)/((1 + 2m) lr), less the weight "
        "decay; P = I"
    ),
    reference="Cohen et al. 2021, arXiv:2103.00065, appendix B; dampening and decay: z = -1 in the "
    "recurrence",
    holds="full-batch gradients; with small batches momentum SGD may settle at 2(1 - m)/lr",
)
