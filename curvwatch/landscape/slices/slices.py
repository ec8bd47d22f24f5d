"""The loss on a line and on a plane through the weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from curvwatch.checks import check_choice, check_int
from curvwatch.landscape.checkpoints import Checkpoint
from curvwatch.landscape.module_surface import Subject, surface_of
from curvwatch.landscape.slices.checkpoint_directions import plane_directions, principal_directions
from curvwatch.landscape.slices.directions import (
    Directions,
    Normalize,
    given_directions,
    gradient_direction,
    random_directions,
)
from curvwatch.landscape.slices.eigen_directions import Ends, eigenvectors
from curvwatch.landscape.slices.results import Slice1D, Slice2D
from curvwatch.landscape.surface import CountCosts, Surface, progress_bar, total

DirectionName = Literal["random", "hessian", "gradient"]
Along: TypeAlias = DirectionName | Directions | Tensor | Sequence[Tensor]

# beyond the points that are shown, as a share of their extent
_MARGIN = 0.25
# of the longer extent: what is shorter is rounding; where checkpoints span less there is no plane
_NOTHING = 5e-7


@dataclass(frozen=True)
class _SliceOptions:
    """The options that `slice_1d` and `slice_2d` share; `slice_1d` explains them."""

    distance: float | None
    points: int
    at: Tensor | None
    normalize: Normalize | None
    keep_1d: bool
    ends: Ends
    rtol: float | None
    seed: int


def slice_1d(
    subject: Subject,
    direction: DirectionName | Directions | Tensor = "random",
    *,
    distance: float | None = None,
    points: int = 25,
    at: Tensor | None = None,
    normalize: Normalize | None = None,
    keep_1d: bool = False,
    ends: Ends = "largest",
    rtol: float | None = None,
    seed: int = 0,
    progress: bool = True,
    **surface: Any,
) -> Slice1D:
    """The loss along a line through the weights.

    Args:
        subject: a surface, an `Objective`, or a module with what `surface_of` needs: `batches=`,
            perhaps `loss_fn=`, `mode=`, `max_batches=`.
        direction: "random", "hessian" (an eigenvector), "gradient", a vector of shape (size,) such as
            an update, or `Directions`.
        distance: from the start to either end, in lengths of the direction; None: 1, or far enough for
            all points that the direction has.
        points: on the line; odd, so that the start is one of them, but where the points of the
            direction set the range.
        at: (size,) origin in place of the surface's start.
        normalize: as in `random_directions`; None: "filter" of random ones, else a unit vector; a given
            vector stays as it is.
        keep_1d: as in `random_directions`.
        ends: of the spectrum, as in `eigenvectors`.
        rtol: of "hessian", as in `eigenvectors`.
        seed: of what is random in the direction.
        progress: whether to show a progress bar, on a terminal.
        **surface: options of `surface_of`, for a module.

    Raises:
        ValueError: an argument is out of range.
        CurvwatchError: the loss or the direction cannot be computed; the message says why.

    Example:
        >>> bowl = FunctionSurface(lambda w: (w**2).sum() / 2, torch.zeros(2, dtype=torch.float64))
        >>> slice_1d(bowl, torch.tensor([1.0, 0.0]), points=5).losses
        array([0.5  , 0.125, 0.   , 0.125, 0.5  ])
    """
    options = _SliceOptions(
        distance=distance,
        points=points,
        at=at,
        normalize=normalize,
        keep_1d=keep_1d,
        ends=ends,
        rtol=rtol,
        seed=seed,
    )
    (alphas,), content = _slice(subject, direction, 1, options, surface, progress=progress)
    return Slice1D(alphas=alphas, **content)


def slice_2d(
    subject: Subject,
    directions: Along = "random",
    *,
    distance: float | None = None,
    points: int = 25,
    at: Tensor | None = None,
    normalize: Normalize | None = None,
    keep_1d: bool = False,
    ends: Ends = "largest",
    rtol: float | None = None,
    seed: int = 0,
    progress: bool = True,
    **surface: Any,
) -> Slice2D:
    """The loss on a plane through the weights, at `points` x `points` places.

    Args:
        subject: as in `slice_1d`.
        directions: "random" (two, orthogonal), "hessian" (two eigenvectors), "gradient" (and a random
            one across), two vectors of shape (size,), or `Directions`.
        distance: from the start to each side, in lengths of the directions; None: 1, or far enough for
            all points that the directions have.
        points: to a side; odd, but where the points of the directions set the range.
        at: as in `slice_1d`.
        normalize: as in `slice_1d`.
        keep_1d: as in `slice_1d`.
        ends: as in `slice_1d`.
        rtol: as in `slice_1d`.
        seed: as in `slice_1d`.
        progress: as in `slice_1d`.
        **surface: options of `surface_of`, for a module.

    Raises:
        ValueError: an argument is out of range.
        CurvwatchError: the loss or the directions cannot be computed; the message says why.
    """
    options = _SliceOptions(
        distance=distance,
        points=points,
        at=at,
        normalize=normalize,
        keep_1d=keep_1d,
        ends=ends,
        rtol=rtol,
        seed=seed,
    )
    (alphas, betas), content = _slice(subject, directions, 2, options, surface, progress=progress)
    return Slice2D(alphas=alphas, betas=betas, **content)


def _slice(
    subject: Subject,
    along: Any,
    count: int,
    options: _SliceOptions,
    surface: dict[str, Any],
    *,
    progress: bool,
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """The axes of a slice, and its other fields by name."""
    fitted = _is_fitted(along, options.distance, options.points)
    axes: list[np.ndarray] = []
    if not fitted:
        distance = 1.0 if options.distance is None else options.distance
        axes = [_symmetrical(distance, options.points)] * count
    f = surface_of(subject, **surface)
    directions = _directions(f, along, count, options)
    with CountCosts(f) as costs:
        marks = _marks(f, directions)
        if fitted:
            axes = _fitting(directions, marks["coordinates"], options.points)
        losses = _losses(f, directions, axes, progress=progress)
    spent = asdict(total(directions.cost, costs.cost))
    return axes, {"losses": losses, **_common(directions), **marks, **spent}


def plane(
    subject: Subject,
    checkpoints: Sequence[Checkpoint],
    *,
    names: Sequence[str] | None = None,
    points: int = 25,
    progress: bool = True,
    **surface: Any,
) -> Slice2D:
    """The plane that goes through three checkpoints, with their losses.

    Coordinates are distances between weights; the first checkpoint is at (0, 0), the second on the
    first axis.

    Args:
        subject: as in `slice_1d`.
        checkpoints: three, as `weights_of` takes them.
        names: of the checkpoints.
        points: to a side.
        progress: whether to show a progress bar, on a terminal.
        **surface: options of `surface_of`, for a module.

    Raises:
        ValueError: there are not three.
        CurvwatchError: they lie on a line, or one does not fit.
    """
    f = surface_of(subject, **surface)
    directions = plane_directions(f, checkpoints, names=names)
    return slice_2d(f, directions, points=points, progress=progress)


def trajectory(
    subject: Subject,
    checkpoints: Sequence[Checkpoint],
    *,
    names: Sequence[str] | None = None,
    points: int = 25,
    progress: bool = True,
    **surface: Any,
) -> Slice2D:
    """The path of a training on the plane in which its checkpoints vary most.

    Principal directions after Li et al. 2018. The last checkpoint is at (0, 0).
    `point_losses` are those of the checkpoints themselves, which lie `off_slice` of the plane: where
    that is far, the losses of the plane beside them are others.

    Args:
        subject: as in `slice_1d`.
        checkpoints: three or more in their order, as `weights_of` takes them, evenly spaced, such as
            those of `Snapshots(every_n_steps=...)`.
        names: of the checkpoints.
        points: to a side.
        progress: whether to show a progress bar, on a terminal.
        **surface: options of `surface_of`, for a module.

    Raises:
        ValueError: there are fewer than three.
        CurvwatchError: they lie on a line, or one does not fit.
    """
    f = surface_of(subject, **surface)
    directions = principal_directions(f, checkpoints, names=names)
    return slice_2d(f, directions, points=points, progress=progress)


def _directions(f: Surface, along: Any, count: int, options: _SliceOptions) -> Directions:
    if options.rtol is not None and not (isinstance(along, str) and along == "hessian"):
        raise ValueError(
            f'rtol={options.rtol!r}: it belongs to "hessian"; eigenvectors(surface, rtol=...) makes '
            "such directions"
        )
    found = along if isinstance(along, Directions) else _made(f, along, count, options)
    if len(found.vectors) != count:
        raise ValueError(f"{len(found.vectors)} directions were given where {count} are needed")
    return found


def _made(f: Surface, along: Any, count: int, options: _SliceOptions) -> Directions:
    at, seed, keep_1d = options.at, options.seed, options.keep_1d
    normalize = options.normalize
    if not isinstance(along, str):
        return given_directions(f, along, at=at, normalize=normalize, keep_1d=keep_1d)
    check_choice("directions", along, ("random", "hessian", "gradient"))
    if along == "hessian":
        if normalize not in (None, "none"):
            raise ValueError(
                f"normalize={normalize!r} would turn an eigenvector into another direction: 'none' is "
                "needed"
            )
        return eigenvectors(f, count, at=at, ends=options.ends, rtol=options.rtol, seed=seed)
    if along == "gradient":
        return gradient_direction(
            f, count, at=at, normalize=normalize or "none", keep_1d=keep_1d, seed=seed
        )
    return random_directions(
        f, count, at=at, normalize=normalize or "filter", keep_1d=keep_1d, seed=seed
    )


def _losses(
    f: Surface, directions: Directions, axes: Sequence[np.ndarray], *, progress: bool
) -> np.ndarray:
    losses = np.full([len(axis) for axis in axes], np.nan)
    places = list(itertools.product(*(range(len(axis)) for axis in axes)))
    with f.open():
        for place in progress_bar(places, "slice", progress=progress):
            where = (float(axis[i]) for axis, i in zip(axes, place, strict=True))
            losses[place] = f.loss(directions.at(*where))
    return losses


def _marks(f: Surface, directions: Directions) -> dict[str, Any]:
    """The points that are shown, with losses of their own."""
    k = len(directions.vectors)
    points = [] if directions.points is None else list(directions.points)
    found = [directions.coordinates(w) for w in points]
    with ExitStack() as stack:
        if points:
            stack.enter_context(f.open())
        losses = [f.loss(w) for w in points]
    return {
        "coordinates": np.array([c for c, _ in found]).reshape(len(points), k),
        "point_losses": np.array(losses, dtype=np.float64),
        "off_slice": np.array([off for _, off in found]),
        "point_names": directions.point_names,
        "path": directions.path,
    }


def _common(directions: Directions) -> dict[str, Any]:
    return {
        "names": directions.names,
        "norms": directions.norms,
        "description": directions.description,
        "notes": directions.notes,
        "values": directions.values,
        "residuals": directions.residuals,
        "explained": directions.explained,
    }


def _check_points(points: int) -> None:
    check_int("points", points, at_least=3, what="a whole number, 3 at least,")


def _symmetrical(distance: float, points: int) -> np.ndarray:
    """From -distance to distance, exactly zero in the middle."""
    _check_points(points)
    if points % 2 == 0:
        raise ValueError(
            f"points={points}: an odd number is needed, so that the start is one of them; "
            f"{points + 1} would do"
        )
    if not (isinstance(distance, (int, float)) and 0 < distance < math.inf):
        raise ValueError(f"distance={distance!r}: a positive number is needed")
    half = points // 2
    return np.arange(-half, half + 1) / half * float(distance)


def _is_fitted(along: Any, distance: float | None, points: int) -> bool:
    """Whether the points of the directions set the range."""
    _check_points(points)
    return distance is None and isinstance(along, Directions) and along.points is not None


def _fitting(directions: Directions, coordinates: np.ndarray, points: int) -> list[np.ndarray]:
    """An axis along each direction that covers the points.

    Where all of them lie on the other one, as those of an update, it is as long as that, to both sides.
    """
    norms = directions.norms
    reaches = np.ptp(np.vstack([coordinates, np.zeros(len(norms))]), axis=0) * norms
    longest = reaches.max()
    nothing = max(_NOTHING, torch.finfo(directions.vectors.dtype).eps) * longest
    return [
        _covering(np.array([-0.5, 0.5]) * longest / norm if reach < nothing else column, points)
        for column, reach, norm in zip(coordinates.T, reaches, norms, strict=True)
    ]


def _covering(values: np.ndarray, points: int) -> np.ndarray:
    """Evenly from below the smallest to above the largest of `values` and 0, which is one of them."""
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    margin = _MARGIN * (high - low)
    low, high = low - margin, high + margin
    below = min(max(1, round(-low / (high - low) * (points - 1))), points - 2)
    spacing = max(-low / below, high / (points - 1 - below))
    return np.arange(-below, points - below) * spacing
