"""A slice as a surface in three dimensions, with matplotlib (the report extra)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from curvwatch.charts.figures import is_logarithmic, new_figure, plain
from curvwatch.landscape.slices.point_labels import points_along
from curvwatch.landscape.slices.style import (
    ORANGE,
    START,
    PlaneLike,
    finish,
    labelled_points,
    outline,
    point_text,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# on the logarithmic axis, about
_TICKS = 8


def plot_surface(plane: PlaneLike) -> Figure:
    """The loss as a height, with points at their own losses; there are holes where it is not finite."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    figure = new_figure((7.0, 6.0))
    # by hand: what is behind a hill, such as a point of a path, is drawn nevertheless
    axes: Any = figure.add_subplot(projection="3d", computed_zorder=False)
    axes.view_init(elev=32, azim=-55)
    logarithmic = is_logarithmic(plane.losses)
    heights = _heights(plane.losses, logarithmic)
    # matplotlib's own surface draws artifacts beside nan
    quads, means = [], []
    for i in range(len(plane.alphas) - 1):
        for j in range(len(plane.betas) - 1):
            corners = [(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)]
            z = [heights[c] for c in corners]
            if np.isfinite(z).all():
                quads.append([(plane.alphas[a], plane.betas[b], heights[a, b]) for a, b in corners])
                means.append(np.mean(z))
    if quads:
        low, high = min(means), max(means)
        share = (np.array(means) - low) / (high - low) if high > low else np.full(len(means), 0.5)
        colours = colormaps["viridis"](share)
        axes.add_collection3d(
            Poly3DCollection(
                quads, facecolors=colours, edgecolors=(1, 1, 1, 0.35), linewidths=0.3, zorder=1
            )
        )
    low, high = _draw_points(axes, plane, heights, logarithmic)
    room = 0.0 if high > low else 0.1 * max(abs(high), 1e-12)
    axes.set_zlim(low - room, high + room)
    axes.set_xlim(plane.alphas[0], plane.alphas[-1])
    axes.set_ylim(plane.betas[0], plane.betas[-1])
    if logarithmic:
        ticks = log_ticks(10.0**low, 10.0**high)
        axes.set_zticks(np.log10(ticks), labels=[f"{tick:.3g}" for tick in ticks])
    axes.set_xlabel(plain(plane.names[0]), fontsize="small")
    axes.set_ylabel(plain(plane.names[1]), fontsize="small")
    axes.set_zlabel("loss, log axis" if logarithmic else "loss", fontsize="small", labelpad=8)
    axes.tick_params(labelsize="small")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    axes.set_box_aspect(None, zoom=0.85)
    if len(plane.coordinates):
        _label(axes, plane, _heights(plane.point_losses, logarithmic))
    finish(figure, axes, plane, legend_inside=False)
    return figure


def log_ticks(low: float, high: float) -> np.ndarray:
    """Powers of ten from `low` to `high`, which are decades apart, and steps of 1-2-5 or 1-3 of few."""
    first, last = np.floor(np.log10(low)), np.ceil(np.log10(high))
    decades = last - first
    each = (1.0, 2.0, 5.0) if decades <= 3 else (1.0, 3.0) if decades <= 4 else (1.0,)
    powers = np.arange(first, last + 1, max(1, round(decades / _TICKS)))
    ticks = np.array([f * 10.0**power for power in powers for f in each])
    return ticks[(ticks >= low * (1 - 1e-9)) & (ticks <= high * (1 + 1e-9))]


def _heights(losses: np.ndarray, logarithmic: bool) -> np.ndarray:
    """Losses or their logarithms; nan where there is none."""
    heights = np.full(losses.shape, np.nan)
    shown = np.isfinite(losses) & (losses > 0 if logarithmic else True)
    heights[shown] = np.log10(losses[shown]) if logarithmic else losses[shown]
    return heights


def _draw_points(
    axes: Any, plane: PlaneLike, heights: np.ndarray, logarithmic: bool
) -> tuple[float, float]:
    """Points, or the start; returns the lowest and the highest of all that is drawn."""
    if len(plane.coordinates):
        x, y = plane.coordinates.T
        z = _heights(plane.point_losses, logarithmic)
        style: dict[str, Any] = {"color": ORANGE, "zorder": 3}
        if plane.path:
            axes.plot(x, y, z, "-o", markersize=4, linewidth=1.4, path_effects=outline(), **style)
        else:
            axes.plot(x, y, z, "D", markeredgecolor="white", markersize=8, **style)
    else:
        x = y = np.zeros(1)
        z = _heights(np.array([plane.start_loss]), logarithmic)
        if np.isfinite(z).all():
            axes.plot(x, y, z, "*", **START, markersize=12, label="start", zorder=3)
    drawn = np.concatenate([heights.ravel(), z])
    drawn = drawn[np.isfinite(drawn)]
    return (float(drawn.min()), float(drawn.max())) if drawn.size else (0.0, 1.0)


def _label(axes: Any, plane: PlaneLike, heights: np.ndarray) -> None:
    """Names beside points, on the side where the fewest others are, as they are seen."""
    from mpl_toolkits.mplot3d import proj3d

    places = np.column_stack([plane.coordinates, heights])
    line = places[np.isfinite(heights)]
    if plane.path and len(line):
        line = points_along(line)
    x, y, _ = proj3d.proj_transform(*line.T, axes.get_proj())
    line = axes.transData.transform(np.column_stack([x, y]))
    for i in labelled_points(plane):
        if not np.isfinite(heights[i]):
            continue
        x, y, _ = proj3d.proj_transform(*places[i], axes.get_proj())
        lines = point_text(plane, i).split("\n")
        # about the size of the words, by that of a letter
        letter = 8.3 * axes.figure.dpi / 72
        size = 0.6 * letter * (max(map(len, lines)) + 3), 2.5 * letter
        away = line - axes.transData.transform((x, y))
        near = (np.abs(away) < size).all(axis=1)
        counts = {
            (right, up): (near & (right * away[:, 0] > 0) & (up * away[:, 1] > 0)).sum()
            # of two that are as good the one towards the middle, and clear of the ticks of the heights
            for right in ((1, -1) if x < 0 else (-1, 1))
            for up in ((1, -1) if x < 0 else (-1, 1))
        }
        right, up = min(counts, key=counts.__getitem__)
        axes.text(
            *places[i],
            "\n".join(f"  {words}" if right > 0 else f"{words}  " for words in lines),
            ha="left" if right > 0 else "right",
            va="bottom" if up > 0 else "top",
            fontsize="small",
            path_effects=outline(),
            zorder=4,
        )
