"""The nudged elastic band: pivots that slide down to the valley floor and keep their distances."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from curvwatch.errors import CurvwatchError
from curvwatch.landscape.paths.curves import segment_lengths
from curvwatch.landscape.surface import Surface
from curvwatch.objective.flat_layout import local_dot

# FIRE (Bitzek et al. 2006): its own constants
_GROWTH, _SHRINKAGE, _PATIENCE = 1.1, 0.5, 5
_MIXING, _MIXING_DECAY = 0.1, 0.99
_LARGEST_TIME = 10.0
# of the mean distance of pivots: how far the first step, and any step, moves one
_FIRST_MOVE, _LARGEST_MOVE = 0.01, 0.2
# the highest pivot climbs once forces are down to this part of the first ones, or after half the steps
_CLIMB_BELOW = 0.1
# a segment gets a pivot where the loss on it rises by this part of the band's range over the straight
# line between its ends', as in the code of Draxler et al. (2018), PyTorch-AutoNEB
_INSERT_ABOVE = 0.1
_SAMPLED_AT = (0.25, 0.5, 0.75)


@dataclass(frozen=True, eq=False)
class Relaxed:
    """What is left of a band.

    Attributes:
        points: ends and pivots, shape (k, size).
        history: the highest loss of a pivot before each step.
        force: the largest force on a pivot at the end, relative to the first.
        converged: whether it is as small as it was asked to be.
    """

    points: Tensor
    history: list[float]
    force: float
    converged: bool


def relax_band(
    surface: Surface,
    points: Tensor,
    steps: Iterable[int],
    *,
    count: int,
    spring: float | None,
    inserts: int,
    climb: bool,
    tolerance: float,
) -> Relaxed:
    """Let a band relax: its ends stay.

    On a pivot acts the part of the loss's force, -gradient, that is perpendicular to the band, and a
    spring along it, k (distance to the next - distance to the one before) (Jonsson et al. 1998). The
    direction of the band is the improved tangent of Henkelman & Jonsson (2000), equations 8 to 11. The
    highest pivot climbs: its force is the loss's, with the part along the band turned round (Henkelman
    et al. 2000), so it comes to rest on the saddle. Steps are FIRE's (Bitzek et al. 2006).

    Args:
        surface: the loss.
        points: ends and pivots to begin with, shape (k, size).
        steps: from 0 to `count`, each once.
        count: how many steps, at most; each takes a gradient for every pivot.
        spring: k, in loss / weight^2; None: such that springs are as strong as the first forces.
        inserts: how many times, spread over the steps, pivots are put where the loss between two rises
            by a tenth of the band's range above theirs.
        climb: whether the highest pivot climbs.
        tolerance: the band is at rest where no force is larger than this part of the first.

    Raises:
        CurvwatchError: the loss or its gradient at a pivot is not finite.
    """
    ends = surface.loss(points[0]), surface.loss(points[-1])
    when = {count * (i + 1) // (inserts + 1) for i in range(inserts)} - {0}
    mover: _Fire | None = None
    history: list[float] = []
    first, force, climbing = 0.0, math.nan, False
    points = points.clone()
    for step in steps:
        if step in when:
            points = _with_pivots(surface, points, ends, history[-1])
            mover = None
        losses, gradients = _losses_and_gradients(surface, points[1:-1])
        history.append(max(losses))
        if spring is None:
            spring = _spring_like(points, gradients)
        forces = _forces(points, [ends[0], *losses, ends[1]], gradients, spring, climbing=climbing)
        force = max(map(_norm, forces))
        first = first or force
        climbing = climbing or (climb and (force <= _CLIMB_BELOW * first or 2 * step >= count))
        if (
            force <= tolerance * first
            and (climbing or not climb)
            and not when & set(range(step, count))
        ):
            break
        if mover is None:
            mover = _Fire(points, forces)
        points[1:-1] += mover.step(forces)
    relative = force / first if first > 0 else 0.0
    return Relaxed(points, history, relative, relative <= tolerance)


def _losses_and_gradients(surface: Surface, pivots: Tensor) -> tuple[list[float], Tensor]:
    """Loss and gradient of each pivot."""
    losses, gradients = [], torch.empty_like(pivots)
    for i, w in enumerate(pivots):
        loss, gradients[i] = surface.gradient(w)
        losses.append(loss)
    for i, loss in enumerate(losses):
        if not (math.isfinite(loss) and bool(gradients[i].isfinite().all())):
            raise CurvwatchError(
                f"the loss at pivot {i + 1} of {len(losses)} is {loss:g}, or its gradient is not "
                "finite: a band needs finite losses along all of it; kind='chain' skips such places"
            )
    return losses, gradients


def _spring_like(points: Tensor, gradients: Tensor) -> float:
    mean = sum(segment_lengths(points)) / (len(points) - 1)
    steepest = max(map(_norm, gradients))
    return steepest / mean if mean > 0 and steepest > 0 else 1.0


def _forces(
    points: Tensor, losses: list[float], gradients: Tensor, spring: float, *, climbing: bool
) -> Tensor:
    """Of each pivot, shape (k - 2, size)."""
    forces = torch.empty_like(gradients)
    highest = max(range(len(losses)), key=losses.__getitem__)
    for i in range(1, len(points) - 1):
        back, forth = points[i] - points[i - 1], points[i + 1] - points[i]
        tangent = _tangent(back, forth, losses[i - 1], losses[i], losses[i + 1])
        gradient = gradients[i - 1]
        along = float(local_dot(gradient, tangent))
        if climbing and i == highest:
            forces[i - 1] = 2 * along * tangent - gradient
        else:
            pull = spring * (_norm(forth) - _norm(back))
            forces[i - 1] = (along + pull) * tangent - gradient
    return forces


def _tangent(back: Tensor, forth: Tensor, before: float, here: float, after: float) -> Tensor:
    """The improved tangent: towards the higher neighbour, and a mean of both at a top or a bottom."""
    if after > here > before:
        tangent = forth
    elif after < here < before:
        tangent = back
    else:
        near, far = sorted((abs(after - here), abs(before - here)))
        forth_share, back_share = (far, near) if after > before else (near, far)
        # on level ground there is no higher side
        tangent = forth_share * forth + back_share * back if far > 0 else forth + back
    norm = _norm(tangent)
    return tangent / norm if norm > 0 else torch.zeros_like(tangent)


def _with_pivots(surface: Surface, points: Tensor, ends: tuple[float, float], highest: float) -> Tensor:
    """`points` and one more where the loss between two rises far above theirs."""
    losses = [ends[0], *(surface.loss(w) for w in points[1:-1]), ends[1]]
    margin = _INSERT_ABOVE * (max(highest, *losses) - min(losses))
    more = [points[0]]
    for i in range(len(points) - 1):
        sampled = {
            part: surface.loss(torch.lerp(points[i], points[i + 1], part)) for part in _SAMPLED_AT
        }
        excess = {p: loss - losses[i] - p * (losses[i + 1] - losses[i]) for p, loss in sampled.items()}
        part = max(excess, key=excess.__getitem__)
        if excess[part] > margin:
            more.append(torch.lerp(points[i], points[i + 1], part))
        more.append(points[i + 1])
    return torch.stack(more)


class _Fire:
    """Molecular dynamics that stops whenever it would go uphill."""

    def __init__(self, points: Tensor, forces: Tensor) -> None:
        self._mean = sum(segment_lengths(points)) / (len(points) - 1)
        largest = max(map(_norm, forces))
        self._time = math.sqrt(_FIRST_MOVE * self._mean / largest) if largest > 0 else 1.0
        self._largest_time = _LARGEST_TIME * self._time
        self._velocity = torch.zeros_like(forces)
        self._mixing, self._patience = _MIXING, 0

    def step(self, forces: Tensor) -> Tensor:
        """How far each pivot moves."""
        v = self._velocity
        power = _dot(forces, v)
        if power > 0:
            ratio = math.sqrt(_dot(v, v) / _dot(forces, forces))
            v.mul_(1 - self._mixing).add_(forces, alpha=self._mixing * ratio)
            self._patience += 1
            if self._patience > _PATIENCE:
                self._time = min(self._time * _GROWTH, self._largest_time)
                self._mixing *= _MIXING_DECAY
        else:
            v.zero_()
            if self._patience or power < 0:
                self._time *= _SHRINKAGE
            self._mixing, self._patience = _MIXING, 0
        v.add_(forces, alpha=self._time)
        moves = v * self._time
        limit = _LARGEST_MOVE * self._mean
        for move in moves:
            length = _norm(move)
            if length > limit:
                move.mul_(limit / length)
        return moves


def _norm(v: Tensor) -> float:
    return math.sqrt(float(local_dot(v, v)))


def _dot(rows: Tensor, others: Tensor) -> float:
    return math.fsum(float(local_dot(a, b)) for a, b in zip(rows, others, strict=True))
