"""From every parameter's own update to one edge, one P and one shift.

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
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from curvwatch.stability.law import NoLaw, StabilityLaw, Update


class Moved(NamedTuple):
    """A parameter that moves: its place among the measured ones, and its update."""

    place: int
    update: Update


def join(
    empty: StabilityLaw, params: Sequence[Tensor], moved: Sequence[Moved], scale: float
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
    note = _note([update.note for _, update in moved])

    alike = len(set(edges)) == 1 and len(set(shifts)) == 1 and len(moved) == len(params)
    if alike and all(update.preconditioner is None for _, update in moved):
        # P = I throughout: lambda_max(H + c) < edge says lambda_max(H) < edge - c
        if reference <= shifts[0]:
            raise NoLaw(
                f"weight decay {moved[0].update.coupled_decay:g} alone is past the edge "
                f"{reference:g}: the weights diverge at any curvature"
            )
        return replace(empty, edge=reference - shifts[0], sign=sign, note=note)

    preconditioner: list[Tensor | None] = [_constant(param, math.inf) for param in params]
    shift = [0.0] * len(params)
    for (place, update), edge, extra in zip(moved, edges, shifts, strict=True):
        preconditioner[place] = _weighted(params[place], place, update, edge / reference)
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
        raise NoLaw(f"the momentum passes on {update.response} of a gradient that alternates")
    reach = 2.0 - update.lr * update.decoupled_decay
    if not reach > 0.0:
        raise NoLaw(
            f"lr {update.lr:g} x weight decay {update.decoupled_decay:g} is 2 or more: the decay "
            "alone diverges at any curvature"
        )
    return reach / (scale * update.lr * update.response)


def _weighted(param: Tensor, place: int, update: Update, ratio: float) -> Tensor | None:
    """P of one parameter with the ratio of edges folded in; None for the identity."""
    entry = update.preconditioner
    if entry is None:
        return None if ratio == 1.0 else _constant(param, ratio)
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


def _constant(param: Tensor, value: float) -> Tensor:
    dtype = torch.promote_types(param.dtype, torch.float32)
    return torch.full_like(param.detach(), value, dtype=dtype)


def _note(notes: Sequence[str | None]) -> str | None:
    """All that was said, each thing once, so that a caller can warn once per cause."""
    return "; ".join(dict.fromkeys(note for note in notes if note is not None)) or None
