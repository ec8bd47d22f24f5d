"""stability_law: what an optimizer's step is, as it runs now."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from curvwatch.stability.join import Moved, join
from curvwatch.stability.law import Law, NoLaw, StabilityLaw
from curvwatch.stability.table import find_law
from curvwatch.stability.unsupported import BY_VALUE, STILL, reason_without_law
from curvwatch.stability.wrappers import unwrap


@torch.no_grad()
def stability_law(
    optimizer: object,
    params: Iterable[Tensor] | None = None,
    *,
    gradient_scale: float | None = 1.0,
) -> StabilityLaw:
    """The edge of stability of an optimizer and the preconditioner of its last step.

    P is of the step last taken, with the learning rate, momentum and betas that are in force now:
    call it after a step and before a scheduler moves them. It changes nothing in the optimizer.

    Args:
        optimizer: a torch optimizer, or a wrapper that leaves its step alone (Lightning's,
            Fabric's, accelerate's, weight averages).
        params: the parameters whose Hessian is measured, in that order; by default all that
            require a gradient, in the order of the groups. Those that this optimizer does not
            move get P = inf.
        gradient_scale: factor by which clipping by norm scaled the last gradient,
            min(1, limit / norm). It divides the edge and the coupled weight decay, which is
            added after clipping. None says that gradients are clipped by value: there is no law.

    Returns:
        The law; where there is none, with `edge` None and the reason in words.

    Raises:
        TypeError: if `optimizer` has no parameter groups, as a scheduler.
        ValueError: if `gradient_scale` is negative or not finite.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(3))
        >>> stability_law(torch.optim.SGD([weight], lr=0.1, momentum=0.5)).edge
        30.0
        >>> stability_law(torch.optim.Adam([weight])).reason
        'no step taken yet'
    """
    if gradient_scale is not None and not 0.0 <= gradient_scale < math.inf:
        raise ValueError(
            f"gradient_scale={gradient_scale!r}: pass the factor min(1, limit / norm), or None "
            "for clipping by value"
        )
    bare, law = _resolve(optimizer)
    chosen = _trainable(bare) if params is None else tuple(params)
    empty = StabilityLaw(
        optimizer=type(bare).__name__,
        edge=None,
        preconditioner=(None,) * len(chosen),
        shift=(0.0,) * len(chosen),
        reason=None,
        source="" if law is None else law.source,
    )
    try:
        if law is None:
            raise NoLaw(reason_without_law(bare))
        if gradient_scale is None:
            raise NoLaw(BY_VALUE)
        return join(empty, chosen, _moved(bare, law, chosen), float(gradient_scale))
    except NoLaw as answer:
        return replace(empty, reason=str(answer))


def _resolve(optimizer: object) -> tuple[Any, Law | None]:
    """The optimizer below the transparent wrappers, and its law."""
    bare = optimizer
    # looked up at each layer, so that a law registered for a wrapper goes first
    while (law := find_law(bare)) is None and (inner := unwrap(bare)) is not bare:
        bare = inner
    if not hasattr(bare, "param_groups") or not hasattr(bare, "state"):
        hint = "; pass its .optimizer" if hasattr(bare, "optimizer") else ""
        raise TypeError(f"stability_law takes a torch optimizer, got {type(optimizer).__name__}{hint}")
    return bare, law


def _trainable(optimizer: Any) -> tuple[Tensor, ...]:
    return tuple(
        param for group in optimizer.param_groups for param in group["params"] if param.requires_grad
    )


def _moved(optimizer: Any, law: Law, params: tuple[Tensor, ...]) -> list[Moved]:
    """The parameters that the last step moved, with their updates, in the order of the groups.

    Raises:
        NoLaw: if none was, or the law does not hold for one.
    """
    place = {id(param): index for index, param in enumerate(params)}
    moved, unstepped, still = [], False, False
    for group in optimizer.param_groups:
        for param in group["params"]:
            if id(param) not in place or not param.requires_grad:
                continue
            state = optimizer.state.get(param, {})  # [] would add an entry
            _check_layout(type(optimizer).__name__, param, state)
            update = law.update(param, group, state)
            if update is None:
                unstepped = True
            elif update.lr == 0.0:
                still = True
            else:
                moved.append(Moved(place[id(param)], update))
    if moved:
        return moved
    if still:
        raise NoLaw("learning rate is 0")
    if unstepped:
        raise NoLaw("no step taken yet")
    raise NoLaw("this optimizer trains none of the parameters")


def _check_layout(name: str, param: Tensor, state: Any) -> None:
    """Refuse what the formulas were not derived for.

    Raises:
        NoLaw: for complex parameters and sparse gradients.
    """
    if param.is_complex():
        raise NoLaw(f"{name} trains complex parameters, for which there is no law; {STILL}")
    entries = [param.grad, *(state.values() if isinstance(state, dict) else ())]
    if any(isinstance(entry, Tensor) and entry.is_sparse for entry in entries):
        raise NoLaw(
            f"{name} gets sparse gradients: each row of a weight has steps of its own, so there "
            f"is no law; {STILL}"
        )
