"""stability_law: what an optimizer's step is, as it runs now, joined over its parameters.

At the edge the weights flip their sign at every step, z = -1, and each parameter's update reads
``(2 - lr d) w = lr Q(-1) P^-1 (s k H + c) w``, k the factor by which gradients were scaled. So
every parameter has an edge of its own, ``edge_i = (2 - lr d) / (k lr Q(-1))``, and stability is
lost when ``diag(1 / (edge_i P_i)) (s H + c / k)`` reaches the eigenvalue 1. One edge is reported,
that of the first group that moves; the ratios of the others to it go into P.

No other crossing comes first: with ``f(z) = (z - 1 + lr d) / (lr Q(z))`` the imaginary part of
f(e^{i theta}) has the sign of sin(theta) for each law here, so ``diag(f(z) P) + s H + C`` with a
symmetric H can be singular on the unit circle at z = 1 and z = -1 alone, however groups are mixed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from curvwatch.stability.law import Law, NoLaw, StabilityLaw, Update
from curvwatch.stability.table import find_law
from curvwatch.stability.unsupported import BY_VALUE, STILL, reason_without_law, unwrap


class MovedParameter(NamedTuple):
    """A parameter that moves: its place among the measured ones, and its update."""

    place: int
    update: Update


def join(
    empty: StabilityLaw, params: Sequence[Tensor], moved: Sequence[MovedParameter], scale: float
) -> StabilityLaw:
    """Join the updates into one law.

    Args:
        empty: the result to fill in.
        params: the measured parameters.
        moved: those that move, in the order of the groups; at least one.
        scale: k, the factor by which gradients were scaled.

    Raises:
        NoLaw: if no edge exists for these settings.
    """
    if scale == 0.0:
        raise NoLaw("the gradients were scaled to 0")
    if len({update.maximize for _, update in moved}) > 1:
        raise NoLaw(
            "some groups ascend (maximize=True) and others descend: the game between them has "
            "no edge of this kind"
        )
    edges = [_edge(update, scale) for _, update in moved]
    shifts = [update.coupled_decay / scale for _, update in moved]
    reference = edges[0]
    sign = -1.0 if moved[0].update.maximize else 1.0
    note = _join_notes([update.note for _, update in moved])

    alike = len(set(edges)) == 1 and len(set(shifts)) == 1 and len(moved) == len(params)
    if alike and all(update.preconditioner is None for _, update in moved):
        # P = I throughout: lambda_max(H + c) < edge says lambda_max(H) < edge - c
        if reference <= shifts[0]:
            raise NoLaw(
                f"weight decay {moved[0].update.coupled_decay:g} alone is past the edge "
                f"{reference:g}: the weights diverge at any curvature"
            )
        return replace(empty, edge=reference - shifts[0], sign=sign, note=note)

    preconditioner: list[Tensor | None] = [_fill_like(param, math.inf) for param in params]
    shift = [0.0] * len(params)
    for (place, update), edge, extra in zip(moved, edges, shifts, strict=True):
        preconditioner[place] = _scale_preconditioner(params[place], place, update, edge / reference)
        shift[place] = extra
    return replace(
        empty,
        edge=reference,
        preconditioner=tuple(preconditioner),
        shift=tuple(shift),
        sign=sign,
        note=note,
        adaptive=any(update.preconditioner is not None for _, update in moved),
    )


def _edge(update: Update, scale: float) -> float:
    """(2 - lr d) / (k lr Q(-1)), or the reason why it is none."""
    if not 0.0 < update.lr < math.inf:
        raise NoLaw(f"learning rate is {update.lr}")
    if not 0.0 < update.response < math.inf:
        raise NoLaw(
            f"the momentum's response to an alternating gradient is {update.response}: no edge exists"
        )
    reach = 2.0 - update.lr * update.decoupled_decay
    if not reach > 0.0:
        raise NoLaw(
            f"lr {update.lr:g} x weight decay {update.decoupled_decay:g} is 2 or more: the decay "
            "alone diverges at any curvature"
        )
    return reach / (scale * update.lr * update.response)


def _scale_preconditioner(param: Tensor, place: int, update: Update, ratio: float) -> Tensor | None:
    """P of one parameter with the ratio of edges folded in; None for the identity."""
    entry = update.preconditioner
    if entry is None:
        return None if ratio == 1.0 else _fill_like(param, ratio)
    if entry.shape != param.shape:
        raise ValueError(
            f"the law gives parameter {place} of shape {tuple(param.shape)} a preconditioner of "
            f"shape {tuple(entry.shape)}"
        )
    if not bool((entry > 0.0).all()):  # NaN included
        raise NoLaw(
            f"the optimizer divides parameter {place} by zero or NaN: eps is 0 where a weight has "
            "no gradient, or its state is broken"
        )
    return entry if ratio == 1.0 else entry * ratio


def _fill_like(param: Tensor, value: float) -> Tensor:
    dtype = torch.promote_types(param.dtype, torch.float32)
    return torch.full_like(param.detach(), value, dtype=dtype)


def _join_notes(notes: Sequence[str | None]) -> str | None:
    """All that was said, each thing once, so that a caller can warn once per cause."""
    return "; ".join(dict.fromkeys(note for note in notes if note is not None)) or None


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
    chosen = _trainable_params(bare) if params is None else tuple(params)
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
        return join(empty, chosen, _find_moved(bare, law, chosen), float(gradient_scale))
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


def _trainable_params(optimizer: Any) -> tuple[Tensor, ...]:
    return tuple(
        param for group in optimizer.param_groups for param in group["params"] if param.requires_grad
    )


def _find_moved(optimizer: Any, law: Law, params: tuple[Tensor, ...]) -> list[MovedParameter]:
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
                moved.append(MovedParameter(place[id(param)], update))
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
