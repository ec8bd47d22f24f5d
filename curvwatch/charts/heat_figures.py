"""Heat maps of a run over time, with matplotlib (the report extra)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from curvwatch.charts import DENSITY, LAYER, density_title, layer_densities, whole_densities
from curvwatch.charts.chart import match
from curvwatch.charts.figures import RunLike, figure_pixels, new_figure, plain
from curvwatch.charts.heat_maps import (
    DensityAxes,
    HeatMap,
    aligned,
    column_edges,
    density_map,
    evenly_spaced,
    layer_map,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# more than there are pixels in the figure would not be seen
_ROWS, _COLUMNS = 256, 200
_LAYERS, _NAMES = 96, 24
# metrics of layers, by where they are
_OF_LAYERS = ("curvature/layer/<layer>/", "step/layer/<layer>/")
_DENSITIES_OFF = (
    "no density was read: CurvatureMonitor(measures=[..., 'spectral_density']) reads that of the "
    "Hessian, 'layer_curvature' those of layers"
)
_LAYERS_OFF = (
    "no layer was read: CurvatureMonitor(measures=[..., 'layer_curvature']) reads their curvature, "
    "'gradient_stats' their gradients"
)


def plot_density(run: RunLike, name: str = DENSITY) -> Figure:
    """`History.plot_density`."""
    figure = new_figure((11, 5.5))
    if name not in run.densities:
        known = ", ".join(map(repr, run.densities))
        raise KeyError(f"no density {name!r} was read; there are {known}" if known else _DENSITIES_OFF)
    _draw_density(figure.subplots(), run, name)
    return figure


def plot_layers(run: RunLike, metric: str = "sharpness") -> Figure:
    """`History.plot_layers`."""
    figure = new_figure((11, 5.5))
    if not _layers(run, metric):
        known = sorted({metric_of(name) for name in run if metric_of(name)})
        raise KeyError(
            f"no layer has {metric!r}; layers have {', '.join(known)}" if known else _LAYERS_OFF
        )
    _draw_layers(figure.subplots(), run, metric)
    return figure


def heat_map_pixels(run: RunLike) -> dict[str, np.ndarray]:
    """All heat maps of a run as pixels, shapes (height, width, 3), uint8, by name.

    "density": of the Hessian and other matrices; "layers": sharpness and share of each;
    "layer_densities": of each layer. Those of measures that did not run are missing.
    """
    figures = {
        "density": _densities(run, whole_densities(run.densities)),
        "layers": _all_layers(run),
        "layer_densities": _densities(run, layer_densities(run.densities), of_layers=True),
    }
    return {name: figure_pixels(figure) for name, figure in figures.items() if figure is not None}


def metric_of(name: str) -> str:
    """What of a layer the metric `name` is, without suffix; "" where it is of none."""
    for head in _OF_LAYERS:
        begin, _, _ = head.partition(LAYER)
        if name.startswith(begin):
            tail = name.rpartition("/")[2].partition("-")[0]
            return tail if match(head + tail, name) else ""
    return ""


def _densities(run: RunLike, names: Sequence[str], *, of_layers: bool = False) -> Figure | None:
    if not names:
        return None
    columns = min(3 if of_layers else 1, len(names))
    names = [names[i] for i in evenly_spaced(len(names), 4 * columns)]
    rows = -(-len(names) // columns)
    figure = new_figure((max(11, 5.5 * columns), 5.5 if len(names) == 1 else 4 * rows))
    grid = figure.subplots(rows, columns, squeeze=False)
    shared = None  # other matrices may lie on another scale
    if of_layers:
        shared = DensityAxes.of([h for name in names for h in run.densities[name].histograms])
    for axes, name in zip(grid.flat, names, strict=False):
        _draw_density(axes, run, name, shared)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    return figure


def _all_layers(run: RunLike) -> Figure | None:
    metrics = [metric for metric in ("sharpness", "share") if _layers(run, metric)]
    if not metrics:
        return None
    figure = new_figure((11, 4.5 * len(metrics)))
    for axes, metric in zip(figure.subplots(len(metrics), 1, squeeze=False).flat, metrics, strict=True):
        _draw_layers(axes, run, metric)
    return figure


def _layers(run: RunLike, metric: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Steps and values of each layer that has any, by its name."""
    for head in _OF_LAYERS:
        layers = {}
        for name in run:
            if (of := match(head + metric, name)) and np.isfinite(run[name].values).any():
                layer = of.place + (f" ({of.suffix[1:]})" if of.suffix else "")
                layers[layer] = run[name].steps, run[name].values
        if layers:
            return layers
    return {}


def _draw_density(axes: Axes, run: RunLike, name: str, shared: DensityAxes | None = None) -> None:
    density = run.densities[name]
    heat = density_map(density.histograms, rows=_ROWS, columns=_COLUMNS, axes=shared)
    _draw(axes, heat, density.steps, "share of the eigenvalues per unit")
    axes.set_ylabel("eigenvalue")
    if heat.linear is not None:
        axes.set_yscale("asinh", linear_width=heat.linear)
    axes.set_yticks(heat.ticks, [f"{tick:g}" for tick in heat.ticks])
    axes.minorticks_off()
    title = density_title(name)
    axes.set_title(plain(title[0].upper() + title[1:]))


def _draw_layers(axes: Axes, run: RunLike, metric: str) -> None:
    steps, values = aligned(_layers(run, metric))
    heat = layer_map(values, rows=_LAYERS, columns=_COLUMNS)
    _draw(axes, heat, steps, metric.replace("_", " "))
    labelled = evenly_spaced(len(heat.names), _NAMES)
    axes.set_yticks(labelled + 0.5, [plain(heat.names[i]) for i in labelled])
    left_out = len(values) - len(heat.names)
    axes.set_title(
        f"{metric.replace('_', ' ').capitalize()} of each layer, the first at the top"
        + (f" ({left_out} of {len(values)} left out)" if left_out else "")
    )


def _draw(axes: Axes, heat: HeatMap, steps: np.ndarray, label: str) -> None:
    from matplotlib import colors

    low, high = heat.low, heat.high
    if not high > low:  # one value alone needs room
        low, high = (low / 2, high * 2) if heat.scale == "log" else (low - 0.5, high + 0.5)
    norms: Any = colors
    norm = {
        "linear": lambda: norms.Normalize(low, high),
        "log": lambda: norms.LogNorm(low, high),
        "asinh": lambda: norms.AsinhNorm(heat.middle, low, high),
    }[heat.scale]()
    at = column_edges(steps[heat.columns].astype(float))
    colours = "RdBu" if heat.is_signed else "YlGnBu"
    axes.set_facecolor("0.88" if heat.names else "white")  # of a missing layer, of no eigenvalue
    mesh = axes.pcolormesh(at, heat.edges, heat.cells, norm=norm, cmap=colours, rasterized=True)
    axes.set_xlabel("optimizer step")
    ticks = None
    if heat.scale == "asinh":  # those of matplotlib lie on each other around 0
        power = np.floor(np.log10(high))
        sizes = [s for s in 10.0 ** np.arange(power - 2, power + 1) if s > 2 * heat.middle]
        ticks = sorted([0.0, *sizes, *(-s for s in sizes)])
    axes.figure.colorbar(mesh, ax=axes, label=label, pad=0.01, ticks=ticks)
