"""Figures of losses along paths and interpolations (the report extra)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from curvwatch.landscape.slices.figures import is_logarithmic, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from curvwatch.landscape.paths.interpolation import Interpolation
    from curvwatch.landscape.paths.results import Path


def plot_paths(paths: Sequence[Path], *, labels: Sequence[str] | None = None) -> Figure:
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
    figure, axes = new_figure("path.plot()")
    for i, (path, label) in enumerate(zip(paths, labels or [p.kind for p in paths], strict=True)):
        draw_losses(axes, path.t, path.losses, f"{label}: barrier {path.barrier:.3g}", f"C{i}")
        if np.isfinite(path.losses).all():
            axes.plot(path.barrier_t, path.losses.max(), "o", color=f"C{i}", markersize=5)
    _finish(axes, "t, from a to b", [path.losses for path in paths])
    return figure


def plot_interpolations(
    lines: Sequence[Interpolation], *, labels: Sequence[str] | None = None
) -> Figure:
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
    figure, axes = new_figure("interpolation.plot()")
    for i, line in enumerate(lines):
        told = "monotone" if line.monotone else f"rises by {line.bump:.3g}"
        if labels or len(lines) > 1:
            told = f"{labels[i] if labels else f'line {i + 1}'}: {told}"
        draw_losses(axes, line.alphas, line.losses, told, f"C{i}")
    _finish(axes, "alpha, from a to b", [line.losses for line in lines])
    return figure


def new_figure(
    who: str, *, columns: int = 1, size: tuple[float, float] = (7, 4.5)
) -> tuple[Figure, Any]:
    """A figure with one pair of axes, or with an array of several side by side."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"{who} draws with matplotlib: pip install 'curvwatch[report]'") from error
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(ncols=columns)


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
