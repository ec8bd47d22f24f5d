"""Slices as they come back: numbers, what they mean, a file, a figure."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from curvwatch.landscape import archive
from curvwatch.landscape.slices.figures import plot_line, plot_plane

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice(archive.Archived):
    """What slices of one and two dimensions have in common.

    Attributes:
        names: of the directions, for the axes.
        norms: (k,) lengths of the directions, k 1 or 2.
        description: what the directions are, in a line.
        notes: what a reader has to know besides.
        values: (k,) v'Hv along eigenvectors v, else None.
        residuals: (k,) |Hv - value v| of eigenvectors, else None.
        explained: (k,) share of the variance of the points along each principal direction, else None.
        coordinates: (m, k) of the points that are shown: the nearest ones on the slice.
        point_losses: (m,) losses of the points themselves.
        off_slice: (m,) distance of each point from the slice.
        point_names: of each point.
        path: whether the points follow one another.
        forwards: passes over all batches that it took, directions included.
        gradients: the same for gradients.
        products: the same for Hessian-vector products.
    """

    _WHAT = "slice"
    kind: ClassVar[str]

    names: tuple[str, ...]
    norms: np.ndarray
    description: str
    notes: tuple[str, ...] = ()
    values: np.ndarray | None = None
    residuals: np.ndarray | None = None
    explained: np.ndarray | None = None
    coordinates: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    point_losses: np.ndarray = field(default_factory=lambda: np.empty(0))
    off_slice: np.ndarray = field(default_factory=lambda: np.empty(0))
    point_names: tuple[str, ...] = ()
    path: bool = False
    forwards: int = 0
    gradients: int = 0
    products: int = 0

    def _pack(self) -> archive.Content:
        arrays, values = super()._pack()
        return arrays, {"kind": self.kind, **values}

    @classmethod
    def _unpack(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> Any:
        kinds: dict[str, type[Slice]] = {"1d": Slice1D, "2d": Slice2D}
        # of the class that was saved: `load` compares it with the one that is asked for
        return super(Slice, kinds[values["kind"]])._unpack(arrays, values)


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice1D(Slice):
    """The loss along one direction.

    Attributes, beside those of `Slice`:
        alphas: (n,) float64, coordinates along the direction; the start is at 0.
        losses: (n,) float64, f(start + alpha direction), nan and inf as they came.
    """

    kind: ClassVar[str] = "1d"

    alphas: np.ndarray
    losses: np.ndarray

    @property
    def start_loss(self) -> float:
        """The loss at alpha = 0."""
        return float(self.losses[np.flatnonzero(self.alphas == 0.0)[0]])

    def plot(self) -> Figure:
        """The loss over the coordinate; stretches where it is not finite are hatched.

        Raises:
            ImportError: matplotlib is missing.
        """
        return plot_line(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice2D(Slice):
    """The loss on a plane.

    Attributes, beside those of `Slice`:
        alphas: (n,) float64, coordinates along the first direction; the start is at 0.
        betas: (m,) float64, along the second.
        losses: (n, m) float64, f(start + alpha first + beta second), nan and inf as they came.
    """

    kind: ClassVar[str] = "2d"

    alphas: np.ndarray
    betas: np.ndarray
    losses: np.ndarray

    @property
    def start_loss(self) -> float:
        """The loss at alpha = beta = 0."""
        i, j = (np.flatnonzero(axis == 0.0)[0] for axis in (self.alphas, self.betas))
        return float(self.losses[i, j])

    def plot(self, kind: Literal["contour", "surface"] = "contour") -> Figure:
        """A contour plot, or a surface in three dimensions; where the loss is not finite are holes.

        Raises:
            ValueError: `kind` is another word.
            ImportError: matplotlib is missing.
        """
        return plot_plane(self, kind)


def load_slice(path: str | os.PathLike[str]) -> Slice1D | Slice2D:
    """What `save` of a slice wrote to `path`.

    Raises:
        CurvwatchError: there is no such file, it holds no slice, or is damaged.
    """
    loaded: Any = Slice.load(path)
    result: Slice1D | Slice2D = loaded
    return result
