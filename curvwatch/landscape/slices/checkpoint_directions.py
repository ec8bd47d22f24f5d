"""Directions that checkpoints span: an update, a plane of three, the principal ones of a training."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curvwatch.errors import CurvwatchError
from curvwatch.landscape.checkpoints import Checkpoint, weights_of
from curvwatch.landscape.slices.directions import Directions, check_directions, held_fixed
from curvwatch.landscape.surface import CountCosts, Surface

# the mean over the median gap: of steps that were thinned evenly it is less, of a logarithmic grid soon
# more; distances shrink by themselves as a training comes to rest
_STEPS, _DISTANCES = 2.0, 5.0


def spacing_notes(checkpoints: Sequence[Checkpoint], points: Tensor) -> tuple[str, ...]:
    """A note where `checkpoints` are far from even, in steps where all of them say theirs.

    Args:
        checkpoints: in their order.
        points: (m, size) their weights.
    """
    steps = [_step_of(checkpoint) for checkpoint in checkpoints]
    known = [step for step in steps if step is not None]
    if len(known) == len(steps) and known == sorted(known):
        gaps, most, unit = np.diff(np.array(known, dtype=np.float64)), _STEPS, " steps apart"
    else:
        gaps, most, unit = points.double().diff(dim=0).norm(dim=1).cpu().numpy(), _DISTANCES, " apart"
    median, mean = float(np.median(gaps)), float(gaps.mean())
    if median * most >= mean:
        return ()
    return (
        "the checkpoints, which have equal weight, are not evenly spaced: they are "
        f"{median:.3g}{unit} in the median, {mean:.3g} in the mean",
    )


def _step_of(checkpoint: Checkpoint) -> int | None:
    """The optimizer step that a snapshot or a checkpoint of Lightning's says, if it says one."""
    content: Any = checkpoint
    if isinstance(checkpoint, (str, os.PathLike)):
        try:
            # its tensors stay on the disk
            content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        except Exception:  # an old format, which cannot be mapped
            return None
    if not isinstance(content, Mapping):
        return None
    step = content.get("step", content.get("global_step"))
    return step if type(step) is int else None


def update_directions(
    surface: Surface,
    before: Checkpoint,
    after: Checkpoint,
    count: int = 1,
    *,
    names: Sequence[str] | None = None,
) -> Directions:
    """From one checkpoint to a later one, of which the coordinate 1 is; the first is the origin.

    The second direction is the part of the gradient at the first checkpoint that is orthogonal to the
    update, as long as the update is: the plane holds both.

    Args:
        surface: the loss.
        before: as `weights_of` takes it.
        after: likewise.
        count: 1 or 2.
        names: of the two; None: their files' names, or numbers.

    Raises:
        ValueError: an argument is out of range.
        CurvwatchError: they have the same weights, one does not fit, or the gradient is along the
            update, zero or not finite.
    """
    check_directions(count)
    points = torch.stack([weights_of(c, surface) for c in (before, after)])
    labels = _labels((before, after), names)
    update = points[1].double() - points[0].double()
    length = float(update.norm())
    if not 0.0 < length < math.inf:
        raise CurvwatchError(f"{labels[0]} and {labels[1]} are {length} apart: there is no update")
    raw, axes = [update], [f"update from {labels[0]} to {labels[1]}"]
    spending = CountCosts(surface)
    if count == 2:
        with spending:
            gradient = surface.gradient(points[0])[1].double()
        e = update / length
        across = gradient
        for _ in range(2):
            across = across - (across @ e) * e
        off = float(across.norm())
        if not 1e-6 * float(gradient.norm()) < off < math.inf:
            raise CurvwatchError(
                "the gradient is along the update, zero or not finite: there is no plane"
            )
        raw.append(across * (length / off))
        axes.append("gradient, across the update")
    return Directions(
        vectors=torch.stack(raw).to(surface.dtype),
        names=tuple(axes),
        origin=points[0],
        description=f"update from {labels[0]} to {labels[1]}" + " and gradient" * (count == 2),
        notes=held_fixed(surface, "gradient") if count == 2 else (),
        points=points,
        point_names=labels,
        cost=spending.cost,
    )


def plane_directions(
    surface: Surface, checkpoints: Sequence[Checkpoint], *, names: Sequence[str] | None = None
) -> Directions:
    """The plane of three checkpoints: the first is the origin, the second lies on the first axis.

    Args:
        surface: the loss.
        checkpoints: three, as `weights_of` takes them.
        names: of each; None: their files' names, or numbers.

    Raises:
        ValueError: there are not three.
        CurvwatchError: they lie on a line, or one does not fit.
    """
    if len(checkpoints) != 3:
        raise ValueError(f"a plane goes through three checkpoints, and {len(checkpoints)} were given")
    points = torch.stack([weights_of(c, surface) for c in checkpoints])
    labels = _labels(checkpoints, names)
    sides = points[1:].double() - points[0].double()
    first = float(sides[0].norm())
    if first == 0.0:
        raise CurvwatchError(f"{labels[0]} and {labels[1]} have the same weights: they span no plane")
    if not math.isfinite(first) or not bool(sides.isfinite().all()):
        raise CurvwatchError("a checkpoint has weights that are not finite")
    e1 = sides[0] / first
    e2 = sides[1]
    for _ in range(2):
        e2 = e2 - (e2 @ e1) * e1
    across = float(e2.norm())
    if across <= 1e-6 * float(sides[1].norm()):
        raise CurvwatchError(f"{', '.join(labels)} lie on a line: they span no plane")
    return Directions(
        vectors=torch.stack([e1, e2 / across]).to(surface.dtype),
        names=(f"distance from {labels[0]} to {labels[1]}", f"distance towards {labels[2]}"),
        origin=points[0],
        description=f"plane of {labels[0]}, {labels[1]} and {labels[2]}",
        points=points,
        point_names=labels,
    )


def principal_directions(
    surface: Surface, checkpoints: Sequence[Checkpoint], *, names: Sequence[str] | None = None
) -> Directions:
    """The two directions along which checkpoints of a training vary most; the last is the origin.

    Principal components of the weights relative to the last ones (Li et al. 2018), of
    centred rows as there. Those of a long random walk look much alike, and the first two explain most
    of it, too (Antognini & Sohl-Dickstein 2018).

    Args:
        surface: the loss.
        checkpoints: three or more, in their order; each weighs the same, so they should be evenly
            spaced: a note says where they are far from it.
        names: of each; None: their files' names, or numbers.

    Raises:
        ValueError: there are fewer than three.
        CurvwatchError: they lie on a line, or one does not fit.
    """
    if len(checkpoints) < 3:
        raise ValueError(
            f"two directions need three checkpoints at least, and {len(checkpoints)} were given"
        )
    points = torch.stack([weights_of(c, surface) for c in checkpoints])
    if not bool(points.isfinite().all()):
        raise CurvwatchError("a checkpoint has weights that are not finite")
    M = points.double()
    M = M - M[-1]
    M = M - M.mean(0)
    variances, U = torch.linalg.eigh(M @ M.T)
    variances = variances.flip(0).clamp(min=0.0)
    U = U.flip(1)
    if not float(variances[1]) > 1e-12 * float(variances[0]):
        raise CurvwatchError("the checkpoints lie on a line: they span no plane")
    V = (M.T @ U[:, :2]).T
    V[0] /= V[0].norm()
    V[1] -= (V[1] @ V[0]) * V[0]
    V[1] /= V[1].norm()
    # the training begins at the left, at the bottom
    away = V @ (points[0].double() - points[-1].double())
    V *= torch.where(away > 0, -1.0, 1.0)[:, None]
    explained = (variances[:2] / variances.sum()).cpu().numpy()
    return Directions(
        vectors=V.to(surface.dtype),
        names=tuple(
            f"principal direction {i + 1}, {share:.1%} of the variance"
            for i, share in enumerate(explained)
        ),
        origin=points[-1],
        description=f"principal directions of {len(points)} checkpoints",
        notes=spacing_notes(checkpoints, points),
        explained=explained,
        points=points,
        point_names=_labels(checkpoints, names),
        path=True,
    )


def _labels(checkpoints: Sequence[Checkpoint], names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return tuple(
            Path(c).stem if isinstance(c, (str, os.PathLike)) else f"point {i + 1}"
            for i, c in enumerate(checkpoints)
        )
    if len(names) != len(checkpoints):
        raise ValueError(f"names={names!r}: one for each of {len(checkpoints)} checkpoints is needed")
    return tuple(names)
