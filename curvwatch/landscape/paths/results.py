"""A path as it comes back: numbers, a file, a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from curvwatch.landscape import archive
from curvwatch.landscape.paths.curves import Curve
from curvwatch.landscape.paths.figures import plot_paths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["line", "bezier", "chain", "band"]


@dataclass(frozen=True, eq=False)
class Path(archive.Archived):
    """A path between two minima, and the losses on it.

    Attributes:
        kind: "line", "bezier", "chain" or "band".
        t: shape (n,), rising from 0 to 1: of a line, Bezier curve or chain the curve's parameter, of a
            band the share of its length.
        losses: shape (n,); inf or nan where the loss is.
        length: of the path, in the units of weights.
        controls: shape (k, size): the ends, and between them the bends or pivots.
        knots: shape (k,): where the control points lie on a line, chain or band, in t.
        training: shape (steps made,): of each step the mean loss at its draws (inf: the step was left
            out), of a band's the highest loss of a pivot.
        gradients: spent, in passes over all batches.
        forwards: spent besides.
        force: of a band, the largest force on a pivot at the end, relative to the first one; else nan.
        settings: what `path` was called with, by name.
        notes: limits of the numbers.
    """

    _WHAT = "path"

    kind: Kind
    t: np.ndarray
    losses: np.ndarray
    length: float
    controls: np.ndarray
    knots: np.ndarray
    training: np.ndarray
    gradients: float
    forwards: float
    force: float = math.nan
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def barrier(self) -> float:
        """The highest loss on the path minus that of the higher end.

        0 where no loss is above the higher end's; inf where a loss on the path is not finite.
        """
        if not np.isfinite(self.losses).all():
            return math.inf
        return float(self.losses.max() - max(self.losses[0], self.losses[-1]))

    @property
    def barrier_t(self) -> float:
        """Where the loss is highest; where it is not finite first, if it is so anywhere."""
        finite = np.isfinite(self.losses)
        at = self.losses.argmax() if finite.all() else finite.argmin()
        return float(self.t[at])

    @property
    def resolution(self) -> tuple[float, float]:
        """In t, the widest gap between losses, and the wider of the gaps beside the highest one.

        A hill that is narrower than the first may have been stepped over.
        """
        gaps = np.diff(self.t)
        at = int(np.searchsorted(self.t, self.barrier_t))
        return float(gaps.max()), float(gaps[max(0, at - 1) : at + 1].max())

    def at(self, t: float) -> Tensor:
        """The weights at `t`, shape (size,), on the CPU.

        Raises:
            ValueError: `t` is not between 0 and 1.
        """
        if not 0 <= t <= 1:
            raise ValueError(f"t={t!r}: a number from 0 to 1 is needed")
        shape: Literal["bezier", "chain"] = "bezier" if self.kind == "bezier" else "chain"
        curve = Curve(shape, torch.from_numpy(self.controls), torch.from_numpy(self.knots))
        return curve.at(t)

    def plot(self) -> Figure:
        """The losses along the path.

        Raises:
            ImportError: matplotlib is missing; `pip install 'curvwatch[report]'` has it.
        """
        return plot_paths([self])
