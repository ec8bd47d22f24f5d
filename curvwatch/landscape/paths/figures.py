"""Figures of losses along paths and interpolations (the report extra)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from curvwatch.charts.figures import is_logarithmic, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIZE = (7.0, 4.5)


class PathLike(Protocol):
    """A `Path`."""

    @property
    def kind(self) -> str:
        """Its name in the legend, unless another is given."""

    @property
    def t(self) -> np.ndarray:
        """(n,) from 0 to 1."""

    @property
    def losses(self) -> np.ndarray:
        """(n,) at `t`."""

    @property
    def barrier(self) -> float:
        """The highest loss minus that of the higher end."""

    @property
    def barrier_t(self) -> float:
        """Where the loss is highest."""


class LineLike(Protocol):
    """An `Interpolation`."""

    @property
    def alphas(self) -> np.ndarray:
        """(n,) from 0 to 1."""

    @property
    def losses(self) -> np.ndarray:
        """(n,) at `alphas`."""

    @property
    def bump(self) -> float:
        """The largest rise of the loss."""

    @property
    def monotone(self) -> bool:
        """Whether the loss never rises."""


def plot_paths(paths: Sequence[PathLike], *, labels: Sequence[str] | None = None) -> Figure:
    """The losses along several paths between the same two minima in one figure.

    Args:
        paths: what `path` returned.
        labels: one for each; None: their kinds.

    Raises:
        ValueError: there is no path, or not a label for each.
        ImportError: matplotlib is missing; `pip install 'curvwatch[report]'` has it.
    """
    if not paths:
        raise ValueError("paths=[]: give one at least")
    if labels is not None and len(labels) != len(paths):
        raise ValueError(f"{len(labels)} labels for {len(paths)} paths: one for each is needed")
    figure = new_figure(_SIZE)
    axes = figure.add_subplot()
    for i, (path, label) in enumerate(zip(paths, labels or [p.kind for p in paths], strict=True)):
        draw_losses(axes, path.t, path.losses, f"{label}: barrier {path.barrier:.3g}", f"C{i}")
        if np.isfinite(path.losses).all():
            axes.plot(path.barrier_t, path.losses.max(), "o", color=f"C{i}", markersize=5)
    _finish(axes, "t, from a to b", [path.losses for path in paths])
    return figure


def plot_interpolations(lines: Sequence[LineLike], *, labels: Sequence[str] | None = None) -> Figure:
    """The losses on several straight lines in one figure.

    Args:
        lines: what `interpolate` returned.
        labels: one for each; None: numbers.

    Raises:
        ValueError: there is no line, or not a label for each.
        ImportError: matplotlib is missing; `pip install 'curvwatch[report]'` has it.
    """
    if not lines:
        raise ValueError("lines=[]: give one at least")
    if labels is not None and len(labels) != len(lines):
        raise ValueError(f"{len(labels)} labels for {len(lines)} lines: one for each is needed")
    figure = new_figure(_SIZE)
    axes = figure.add_subplot()
    for i, line in enumerate(lines):
        text = "monotone" if line.monotone else f"rises by {line.bump:.3g}"
        if labels or len(lines) > 1:
            text = f"{labels[i] if labels else f'line {i + 1}'}: {text}"
        draw_losses(axes, line.alphas, line.losses, text, f"C{i}")
    _finish(axes, "alpha, from a to b", [line.losses for line in lines])
    return figure


def draw_losses(axes: Any, t: np.ndarray, losses: np.ndarray, label: str, color: str) -> None:
    """A curve of losses; crosses at the bottom where they are not finite."""
    finite = np.isfinite(losses)
    axes.plot(t, np.where(finite, losses, np.nan), "-", color=color, linewidth=1.5, label=plain(label))
    if not finite.all():
        where = t[~finite]
        axes.plot(
            where,
            np.zeros_like(where),
            "x",
            color=color,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
            label="not finite",
        )


def _finish(axes: Any, along: str, losses: Sequence[np.ndarray]) -> None:
    if is_logarithmic(np.concatenate(losses)):
        axes.set_yscale("log")
    axes.set_xlabel(along)
    axes.set_ylabel("loss")
    axes.legend(fontsize="small")
