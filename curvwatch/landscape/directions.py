"""Directions to look along, and the points that lie on them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from curvwatch.arguments import check_word
from curvwatch.errors import CurvwatchError
from curvwatch.landscape.checkpoints import Checkpoint, weights_of
from curvwatch.landscape.normalize import Normalize, normalized
from curvwatch.landscape.surface import Surface, checked
from curvwatch.operators.base import SymmetricOperator
from curvwatch.solvers import lanczos

Ends = Literal["largest", "smallest", "both"]

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
    """Gaussian directions, scaled as the weights are (Li et al. 2018, section 4); two are orthogonal.

    Args:
        surface: what is looked at.
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
    _check_count(count)
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(count, surface.size, generator=generator, dtype=torch.float64)
    origin = surface.start if at is None else checked(surface, at)
    return _scaled(
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
        surface: what is looked at.
        count: 1 or 2.
        at: (size,) where it is taken; None: at the start.
        normalize: as in `random_directions`; "none": a unit vector.
        keep_1d: as in `random_directions`.
        seed: of the generator of the second.

    Raises:
        ValueError: an argument is out of range.
        CurvwatchError: the gradient is zero or not finite.
    """
    _check_count(count)
    origin = surface.start if at is None else checked(surface, at)
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
    return _scaled(surface, raw, names, origin, description, how=normalize, keep_1d=keep_1d)


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
        surface: what is looked at.
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
    _check_count(len(each))
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
    return _scaled(surface, raw, labels, origin, description, how=normalize, keep_1d=keep_1d)


def eigenvectors(
    surface: Surface,
    count: int = 2,
    *,
    at: Tensor | None = None,
    ends: Ends = "largest",
    rtol: float = 1e-3,
    max_products: int = 200,
    seed: int = 0,
) -> Directions:
    """Unit eigenvectors of the Hessian, with their eigenvalues and residuals.

    Args:
        surface: what is looked at; it must not be open.
        count: 1 or 2.
        at: (size,) where the Hessian is taken; None: at the start.
        ends: "largest" or "smallest" (most negative) eigenvalues, algebraically; "both": the largest
            and the smallest one, with count=2.
        rtol: residual relative to the eigenvalue that Lanczos stops at.
        max_products: the most Hessian-vector products of each solve; what is not there by then is told
            in the notes.
        seed: of the generator of the start vector.

    Raises:
        ValueError: an argument is out of range.
        CurvwatchError: the Hessian is not finite, or has too few rows.
    """
    _check_count(count)
    check_word("ends", ends, ("largest", "smallest", "both"))
    if ends == "both" and count != 2:
        raise ValueError("ends='both' are two directions: count=2 is needed")
    if surface.size < count:
        raise CurvwatchError(f"{surface.size} weights have no {count} eigenvectors")
    generator = torch.Generator().manual_seed(seed)
    origin = surface.start if at is None else checked(surface, at)
    with surface.hessian(at) as H:
        solves = [(True, 1), (False, 1)] if ends == "both" else [(ends == "largest", count)]
        found, doubts = [], []
        for largest, k in solves:
            pairs = lanczos(
                H,
                k=k,
                largest=largest,
                rtol=rtol,
                max_products=max_products,
                generator=generator,
            )
            if not np.isfinite(pairs.values).all() or len(pairs.values) < k:
                raise CurvwatchError("the Hessian is not finite there, so it has no eigenvectors")
            found.append(pairs.vectors.double())
            if not pairs.converged:
                doubts.append(f"Lanczos did not converge in {pairs.products} products")
        V = torch.cat(found)
        if count == 2:  # of two solves they are orthogonal up to their residuals
            V[1] -= (V[1] @ V[0]) * V[0]
        V = (V / V.norm(dim=1, keepdim=True)).to(surface.dtype)
        values, residuals = _rayleigh(H, V)
    which = "largest and smallest" if ends == "both" else ends
    recalibrates = getattr(surface, "recalibrates", False)
    held = "the Hessian is that with batch norm's statistics held fixed"
    return Directions(
        vectors=V,
        names=tuple(
            f"Hessian eigenvector {i + 1}, λ = {value:.3g} ± {residual:.1g}"
            for i, (value, residual) in enumerate(zip(values, residuals, strict=True))
        ),
        origin=origin,
        description=f"Hessian eigenvector{'s' * (count == 2)}, {which}",
        notes=tuple(doubts) + ((held,) if recalibrates else ()),
        values=values,
        residuals=residuals,
    )


def plane_directions(
    surface: Surface, checkpoints: Sequence[Checkpoint], *, names: Sequence[str] | None = None
) -> Directions:
    """The plane of three checkpoints: the first is the origin, the second lies on the first axis.

    Args:
        surface: what is looked at.
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

    Principal components of the weights relative to the last ones (Li et al. 2018, section 7), of
    centred rows as there. Those of a long random walk look much alike, and the first two explain most
    of it, too (Antognini & Sohl-Dickstein 2018).

    Args:
        surface: what is looked at.
        checkpoints: three or more, in their order.
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
        explained=explained,
        points=points,
        point_names=_labels(checkpoints, names),
        path=True,
    )


def _scaled(
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


def _rayleigh(H: SymmetricOperator, V: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Quotients v'Hv and |Hv - v'Hv v| of each row."""
    values, residuals = [], []
    for v in V:
        Hv = H.matvec(v).double()
        value = float(Hv @ v.double())
        values.append(value)
        residuals.append(float((Hv - value * v.double()).norm()))
    return np.array(values), np.array(residuals)


def _labels(checkpoints: Sequence[Checkpoint], names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return tuple(
            Path(c).stem if isinstance(c, (str, os.PathLike)) else f"point {i + 1}"
            for i, c in enumerate(checkpoints)
        )
    if len(names) != len(checkpoints):
        raise ValueError(f"names={names!r}: one for each of {len(checkpoints)} checkpoints is needed")
    return tuple(names)


def _known(how: Normalize) -> Normalize:
    check_word("normalize", how, ("filter", "layer", "none"))
    return how


def _check_count(count: int) -> None:
    if count not in (1, 2):
        raise ValueError(f"{count} directions: one, or two, are needed")
