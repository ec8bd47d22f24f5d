"""Directions of slices, and the points that lie on them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from curvwatch.checks import check_choice
from curvwatch.errors import CurvwatchError
from curvwatch.landscape.surface import CountCosts, Group, Surface, checked
from curvwatch.objective import Counts

Normalize = Literal["filter", "layer", "none"]


def normalization_rows(
    groups: Sequence[Group], size: int, how: Normalize, *, keep_1d: bool
) -> Iterator[tuple[slice, int]]:
    """Where in a flat vector there are rows that are scaled each by itself, and how many.

    Args:
        groups: the parameters.
        size: of the flat vector.
        how: "filter": a row is an output row of a parameter of two or more dimensions; "layer": it is a
            whole parameter; "none": all weights are one row.
        keep_1d: whether parameters of fewer than two dimensions (biases, the scales of norms) are a row
            each; else they are left out. "none" leaves out nothing.
    """
    if how == "none":
        yield slice(0, size), 1
        return
    for group in groups:
        if group.size == 0:
            continue
        if len(group.shape) >= 2:
            yield group.slice, group.shape[0] if how == "filter" else 1
        elif keep_1d:
            yield group.slice, 1


def normalized(
    directions: Tensor,
    weights: Tensor,
    groups: Sequence[Group],
    *,
    how: Normalize,
    keep_1d: bool = False,
) -> tuple[Tensor, int]:
    """One or two directions with rows as long as those of the weights, and orthogonal in each row.

    d_ij <- d_ij |w_ij| / |d_ij| (Li et al. 2018); with "none" the whole is a unit vector.
    The second direction loses its part along the first in each row before it is scaled, so the two are
    orthogonal in each row, thus on the whole. A row of a single entry has no second direction, and is
    zero there.

    Args:
        directions: (k, size), k 1 or 2.
        weights: (size,) that give the lengths.
        groups: the parameters.
        how: what is a row.
        keep_1d: whether parameters of fewer than two dimensions are rows, else they become zero.

    Returns:
        Directions (k, size) in float64, and how many rows were left out of the second.
    """
    result = torch.zeros_like(directions, dtype=torch.float64)
    single = 0
    for place, rows in normalization_rows(groups, weights.numel(), how, keep_1d=keep_1d):
        d = directions[:, place].double().reshape(len(directions), rows, -1)
        w = weights[place].double().reshape(rows, -1)
        lengths = torch.ones(1, 1, dtype=w.dtype, device=w.device)
        if how != "none":
            lengths = w.norm(dim=1, keepdim=True)
        result[0, place] = (_unit(d[0]) * lengths).reshape(-1)
        if len(d) == 1:
            continue
        if w.shape[1] == 1:
            single += rows
            continue
        result[1, place] = (_unit(_across(d[1], _unit(d[0]))) * lengths).reshape(-1)
    return result, single


def _across(d: Tensor, unit: Tensor) -> Tensor:
    """`d` less its part along `unit` in each row; nothing where that is all but rounding."""
    before = d.norm(dim=1, keepdim=True)
    for _ in range(2):  # twice is enough (Kahan, in Parlett 1998)
        d = d - (d * unit).sum(dim=1, keepdim=True) * unit
    return torch.where(d.norm(dim=1, keepdim=True) > 1e-12 * before, d, torch.zeros_like(d))


def _unit(d: Tensor) -> Tensor:
    """The rows of `d` at length 1; zero stays zero."""
    length = d.norm(dim=1, keepdim=True)
    return torch.where(length > 0, d / length, torch.zeros_like(d))


_WORDS = {"filter": "filter-normalised", "layer": "layer-normalised", "none": "unit length"}


@dataclass(frozen=True)
class Directions:
    """One or two directions through a point.

    Attributes:
        vectors: (k, size), k 1 or 2.
        names: of each, for the axes.
        origin: (size,) the point with the coordinates zero.
        description: what they are, in a line.
        notes: what a reader has to know besides.
        values: (k,) v'Hv of unit vectors v, of eigenvectors.
        residuals: (k,) |Hv - value v|; an eigenvalue lies within it of the value.
        explained: (k,) share of the variance of the points along each, of principal directions.
        points: (m, size) what is to be shown, such as checkpoints; m may be 0.
        point_names: of each.
        path: whether the points follow one another.
        cost: of finding them, in passes over all batches.
    """

    vectors: Tensor
    names: tuple[str, ...]
    origin: Tensor
    description: str
    notes: tuple[str, ...] = ()
    values: np.ndarray | None = None
    residuals: np.ndarray | None = None
    explained: np.ndarray | None = None
    points: Tensor | None = None
    point_names: tuple[str, ...] = ()
    path: bool = False
    cost: Counts = field(default_factory=Counts)

    @property
    def norms(self) -> np.ndarray:
        """Length of each vector, shape (k,)."""
        return np.asarray(self.vectors.double().norm(dim=1).cpu())

    def at(self, *coordinates: float) -> Tensor:
        """The weights at `coordinates`, shape (size,); the origin itself, bit for bit, at zero."""
        w = self.origin
        for c, v in zip(coordinates, self.vectors, strict=True):
            w = w + float(c) * v
        return w

    def coordinates(self, w: Tensor) -> tuple[np.ndarray, float]:
        """The coordinates (k,) of the nearest point to `w` (size,), and its distance."""
        V = self.vectors.double()
        away = w.double() - self.origin.double()
        found = torch.linalg.solve(V @ V.T, V @ away)
        return np.asarray(found.cpu()), float((away - found @ V).norm())


def random_directions(
    surface: Surface,
    count: int = 2,
    *,
    at: Tensor | None = None,
    normalize: Normalize = "filter",
    keep_1d: bool = False,
    seed: int = 0,
) -> Directions:
    """Gaussian directions, scaled as the weights are (Li et al. 2018); two are orthogonal.

    Args:
        surface: the loss.
        count: 1 or 2.
        at: (size,) the point they go through, and whose filters give the lengths; None: the start.
        normalize: "filter": each output row of a parameter of two or more dimensions has the length of
            that row of the weights; "layer": each parameter has the length of that of the weights;
            "none": a unit vector over all weights.
        keep_1d: for "filter" and "layer": whether biases, scales of norms and other parameters of fewer
            than two dimensions move, each as long as it is in the weights; else they do not.
        seed: of the generator.

    Raises:
        ValueError: an argument is out of range.
        CurvwatchError: nothing is left to move.
    """
    check_directions(count)
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(count, surface.size, generator=generator, dtype=torch.float64)
    origin = surface.start if at is None else checked(surface, at)
    return _scale(
        surface,
        raw.to(surface.device),
        tuple(f"random direction {i + 1}, {_WORDS[_known(normalize)]}" for i in range(count)),
        origin,
        f"random (Gaussian, seed {seed})",
        how=normalize,
        keep_1d=keep_1d,
    )


def gradient_direction(
    surface: Surface,
    count: int = 1,
    *,
    at: Tensor | None = None,
    normalize: Normalize = "none",
    keep_1d: bool = False,
    seed: int = 0,
) -> Directions:
    """The gradient, uphill; the second direction is a random one, orthogonal to it.

    Args:
        surface: the loss.
        count: 1 or 2.
        at: (size,) where it is taken; None: at the start.
        normalize: as in `random_directions`; "none": a unit vector.
        keep_1d: as in `random_directions`.
        seed: of the generator of the second.

    Raises:
        ValueError: an argument is out of range.
        CurvwatchError: the gradient is zero or not finite.
    """
    check_directions(count)
    origin = surface.start if at is None else checked(surface, at)
    with CountCosts(surface) as spending:
        _, gradient = surface.gradient(origin)
    length = float(gradient.double().norm())
    if not 0.0 < length < math.inf:
        raise CurvwatchError(f"the gradient has the length {length} there, so it is no direction")
    raw = gradient.double()[None]
    if count == 2:
        generator = torch.Generator().manual_seed(seed)
        other = torch.randn(surface.size, generator=generator, dtype=torch.float64)
        raw = torch.stack([raw[0], other.to(raw.device)])
    word = _WORDS[_known(normalize)]
    names = (f"gradient, {word}", f"random direction, {word}")[:count]
    description = f"gradient (of length {length:.4g})" + f" and random (seed {seed})" * (count == 2)
    found = _scale(surface, raw, names, origin, description, how=normalize, keep_1d=keep_1d)
    return replace(found, notes=found.notes + held_fixed(surface, "gradient"), cost=spending.cost)


def given_directions(
    surface: Surface,
    vectors: Tensor | Sequence[Tensor],
    *,
    names: Sequence[str] | None = None,
    at: Tensor | None = None,
    normalize: Normalize | None = None,
    keep_1d: bool = False,
) -> Directions:
    """Vectors of the user's own, such as an update d: the coordinate 1 is the whole of it.

    Args:
        surface: the loss.
        vectors: one or two of shape (size,).
        names: of each.
        at: (size,) the point they go through; None: the start.
        normalize: None leaves them as they are, also where they are not orthogonal; else as in
            `random_directions`.
        keep_1d: as in `random_directions`.

    Raises:
        ValueError: an argument is out of range.
        CurvwatchError: a vector has another shape, is zero or not finite, or two are collinear.
    """
    each = [vectors] if isinstance(vectors, Tensor) else list(vectors)
    check_directions(len(each))
    raw = torch.stack([checked(surface, v.detach()).double() for v in each])
    lengths = raw.norm(dim=1)
    if not bool((lengths > 0).all() and lengths.isfinite().all()):
        raise CurvwatchError(
            f"directions of length {', '.join(f'{float(x):.4g}' for x in lengths)}: each has to be "
            "finite, and not zero"
        )
    notes: tuple[str, ...] = ()
    if len(each) == 2:
        cosine = float((raw[0] / lengths[0]) @ (raw[1] / lengths[1]))
        if abs(cosine) > 1 - 1e-9:
            raise CurvwatchError("the two directions are collinear: they span no plane")
        if normalize is None and abs(cosine) > 1e-6:
            notes = (f"the two directions are not orthogonal: their cosine is {cosine:.3g}",)
    labels = tuple(names or (f"given direction {i + 1}" for i in range(len(each))))
    if len(labels) != len(each):
        raise ValueError(f"names={names!r}: one for each of {len(each)} directions is needed")
    origin = surface.start if at is None else checked(surface, at)
    description = "a given direction" if len(each) == 1 else "given directions"
    if normalize is None:
        return Directions(raw.to(surface.dtype), labels, origin, description, notes)
    return _scale(surface, raw, labels, origin, description, how=normalize, keep_1d=keep_1d)


def _scale(
    surface: Surface,
    raw: Tensor,
    names: tuple[str, ...],
    origin: Tensor,
    description: str,
    *,
    how: Normalize,
    keep_1d: bool,
) -> Directions:
    vectors, single = normalized(raw, origin, surface.groups, how=_known(how), keep_1d=keep_1d)
    notes = []
    still = 0 if how == "none" or keep_1d else sum(g.size for g in surface.groups if len(g.shape) < 2)
    if still:
        notes.append(
            f"biases and other parameters of fewer than two dimensions, {still} of {surface.size} "
            "weights, do not move"
        )
    if single:
        notes.append(f"the second direction leaves out {single} filters of a single weight")
    result = Directions(
        vectors.to(surface.dtype), names, origin, f"{description}, {_WORDS[how]}", tuple(notes)
    )
    for name, norm in zip(names, result.norms, strict=True):
        if norm == 0.0:
            raise CurvwatchError(
                f"{name}: no weight would move, as all parameters have fewer than two dimensions, a "
                "single entry, or are zero; keep_1d=True or normalize='none' moves them"
            )
    return result


def _known(how: Normalize) -> Normalize:
    check_choice("normalize", how, ("filter", "layer", "none"))
    return how


def held_fixed(surface: Surface, derivative: str) -> tuple[str, ...]:
    """The note on a `derivative` of a surface that estimates batch norm's statistics at each point."""
    if not getattr(surface, "recalibrates", False):
        return ()
    return (f"the {derivative} is that with batch norm's statistics held fixed",)


def check_directions(count: int) -> None:
    """Raise a ValueError unless `count` is one or two."""
    if count not in (1, 2):
        raise ValueError(f"{count} directions: one, or two, are needed")
