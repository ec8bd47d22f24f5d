"""Figures of slices, with matplotlib (the report extra)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from curvwatch.charts.figures import is_logarithmic, new_figure, plain
from curvwatch.checks import check_choice
from curvwatch.landscape.slices.point_labels import label
from curvwatch.landscape.slices.style import (
    BLUE,
    GREY,
    HATCH,
    ORANGE,
    START,
    PlaneLike,
    SliceLike,
    finish,
    labelled_points,
    outline,
    point_text,
)
from curvwatch.landscape.slices.surface_figure import plot_surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LEVELS = 25
# distances are drawn to scale, except where one axis would be this much longer
_TOO_LONG = 3.0


def plot_line(line: SliceLike) -> Figure:
    """The loss over the coordinate, with gaps where it is not finite."""
    figure = new_figure((7.0, 4.5))
    axes = figure.add_subplot()
    finite = np.isfinite(line.losses)
    shown = np.where(finite, line.losses, np.nan)
    axes.plot(line.alphas, shown, color=BLUE, marker=".", markersize=4)
    if np.isfinite(line.start_loss):
        axes.plot([0.0], [line.start_loss], "o", color=ORANGE, label=f"start, {line.start_loss:.4g}")
    for name, (alpha,), loss in zip(line.point_names, line.coordinates, line.point_losses, strict=True):
        axes.plot([alpha], [loss], "D", color=GREY, label=f"{plain(name)}, {loss:.4g}")
    if is_logarithmic(line.losses):
        axes.set_yscale("log")
    for low, high in _runs(line.alphas, ~finite):
        axes.axvspan(low, high, facecolor="white", edgecolor="0.7", hatch=HATCH, linewidth=0)
    axes.set_xlim(line.alphas[0], line.alphas[-1])
    axes.set_xlabel(plain(_with_length(line, 0)))
    axes.set_ylabel("loss")
    finish(figure, axes, line, legend_inside=True)
    return figure


def plot_plane(plane: PlaneLike, kind: str) -> Figure:
    """A contour plot, or a surface in three dimensions."""
    check_choice("kind", kind, ("contour", "surface"))
    return _contour(plane) if kind == "contour" else plot_surface(plane)


def _contour(plane: PlaneLike) -> Figure:
    figure, axes, beside = _places(plane)
    Z = np.ma.masked_invalid(plane.losses.T)
    # seen through the holes
    axes.patch.set(facecolor="white", edgecolor="0.7", hatch=HATCH)
    levels, norm = _levels(plane.losses)
    if levels is None:
        _flat(axes, plane)
    else:
        filled = axes.contourf(
            plane.alphas, plane.betas, Z, levels=levels, norm=norm, cmap="viridis", extend="neither"
        )
        axes.contour(
            plane.alphas, plane.betas, Z, levels=levels, colors="white", linewidths=0.4, alpha=0.6
        )
        bar = figure.colorbar(filled, cax=figure.add_axes(beside), label="loss")
        _tick(bar.ax.yaxis, bar, is_logarithmic(plane.losses))
    axes.set_xlim(plane.alphas[0], plane.alphas[-1])
    axes.set_ylim(plane.betas[0], plane.betas[-1])
    _draw_points(axes, plane)
    axes.set_xlabel(plain(_with_length(plane, 0)))
    short = figure.get_figheight() < 5
    axes.set_ylabel(plain(_with_length(plane, 1)), fontsize="small" if short else "medium")
    scales = () if _ratio(plane) is not None else ("the two axes have different scales",)
    finish(figure, axes, plane, legend_inside=False, notes=scales)
    return figure


def _places(plane: PlaneLike) -> tuple[Figure, Axes, tuple[float, float, float, float]]:
    """Figure and axes for a plane with true distances, and the place of the colour bar.

    By inches: layouts that adapt leave labels outside where the shape of axes is fixed.
    """
    ratio = _ratio(plane) or 1.0
    width = min(4.7, 6.5 / ratio)
    height = width * ratio
    left, right, below, above = 0.95, 1.15, 0.85, 0.7
    whole = (left + width + right, below + height + above)
    figure = new_figure(whole, layout=None)
    box = (left / whole[0], below / whole[1], width / whole[0], height / whole[1])
    beside = (box[0] + box[2] + 0.12 / whole[0], box[1], 0.2 / whole[0], box[3])
    return figure, figure.add_axes(box), beside


def _levels(losses: np.ndarray) -> tuple[np.ndarray | None, Any]:
    """Of contours, and the norm of their colours; None where all are equal, or none is finite."""
    from matplotlib.colors import LogNorm, Normalize

    finite = losses[np.isfinite(losses)]
    if not finite.size:
        return None, None
    low, high = float(finite.min()), float(finite.max())
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return None, None
    if is_logarithmic(losses):
        levels = np.geomspace(low, high, _LEVELS)
        norm: Any = LogNorm(low, high)
    else:
        levels = np.linspace(low, high, _LEVELS)
        norm = Normalize(low, high)
    levels[0], levels[-1] = low, high  # rounding must not leave the extremes out
    return levels, norm


def _flat(axes: Axes, plane: PlaneLike) -> None:
    """One colour wherever the loss is finite."""
    from matplotlib import colormaps

    Z = np.ma.masked_invalid(plane.losses.T)
    if Z.count():
        colour = colormaps["viridis"](0.5)
        values = np.zeros(Z.shape)
        filled = np.ma.array(values, mask=Z.mask)
        axes.contourf(
            plane.alphas, plane.betas, filled, levels=[-1.0, 1.0], colors=[colour], extend="neither"
        )
        value = float(Z.compressed()[0])
        axes.plot([], [], "s", color=colour, label=f"constant loss, {value:.4g}")


def _tick(axis: Any, bar: Any, logarithmic: bool) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    bar.ax.minorticks_off()
    if logarithmic:
        low, high = bar.vmin, bar.vmax
        decades = np.log10(high / low)
        subs = (1.0,) if decades > 5 else (1.0, 3.0) if decades > 3 else (1.0, 2.0, 5.0)
        bar.locator = LogLocator(subs=subs, numticks=20)
    else:
        bar.locator = MaxNLocator(8)
    bar.formatter = lambda x, _: f"{x:.3g}"
    bar.update_ticks()
    axis.set_minor_locator(NullLocator())


def _draw_points(axes: Axes, plane: PlaneLike) -> None:
    if not len(plane.coordinates):
        axes.plot([0.0], [0.0], "*", **START, markersize=12, label="start")
        return
    x, y = plane.coordinates.T
    if plane.path:
        axes.plot(x, y, "-o", color=ORANGE, markersize=4, linewidth=1.4, path_effects=outline())
    else:
        axes.plot(x, y, "D", color=ORANGE, markeredgecolor="white", markersize=8)
    texts = {i: point_text(plane, i) for i in labelled_points(plane)}
    label(axes, plane.coordinates, texts, path=plane.path, path_effects=outline())


def _ratio(plane: PlaneLike) -> float | None:
    """Height to width of a plane with true distances; None where that would be too long."""
    ratio = float(np.ptp(plane.betas) / np.ptp(plane.alphas))
    return ratio if 1 / _TOO_LONG < ratio < _TOO_LONG else None


def _with_length(shown: SliceLike, index: int) -> str:
    """The name of a direction, and its length where it is not 1."""
    name, norm = shown.names[index], float(shown.norms[index])
    return name if abs(norm - 1) < 1e-4 else f"{name} (of length {norm:.3g})"


def _runs(x: np.ndarray, flags: np.ndarray) -> Iterator[tuple[float, float]]:
    """Stretches of `x` whose `flags` are set, half way to their neighbours."""
    edges = np.concatenate([[x[0]], (x[1:] + x[:-1]) / 2, [x[-1]]])
    start = None
    for i, flag in enumerate([*flags, False]):
        if flag and start is None:
            start = i
        if not flag and start is not None:
            yield float(edges[start]), float(edges[i])
            start = None
