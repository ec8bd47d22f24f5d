"""Which heat maps runs have: densities over time, and layers that are too many for lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from curvwatch.charts import Chart, density_title, layer_densities, whole_densities
from curvwatch.charts.heat_maps import (
    DensityAxes,
    HeatMap,
    aligned,
    density_map,
    evenly_spaced,
    layer_map,
)
from curvwatch.report.logs import LoggedCurve, LoggedDensity, LoggedRun
from curvwatch.report.run_charts import lines_of, section_of

# rows of a heat map; columns, fewer where there are many heat maps; cells of all together, a byte each
ROWS, COLUMNS, FEWEST_COLUMNS, MOST_CELLS = 96, 60, 20, 250_000
# where densities of layers stand, after the section of the layers
DENSITIES = "Densities of the layers"
# those of more layers than this are left out
_LAYERS = 12
_HOW_DENSITY = (
    "The stronger the colour, the more eigenvalues are there, in powers of ten: outliers stand apart "
    "from the bulk around 0."
)


class RunHeatMap(NamedTuple):
    """One heat map of one run.

    Attributes:
        title: what is shown.
        how: one line that says how to read it.
        section: of the catalogue, or `DENSITIES`.
        run: index of the run.
        source: whose steps, times and epochs the readings have.
        map: the cells.
    """

    title: str
    how: str
    section: str
    run: int
    source: LoggedCurve | LoggedDensity
    map: HeatMap


def heat_maps_of(
    runs: Sequence[LoggedRun],
    charts: Sequence[Chart],
    *,
    rows: int = ROWS,
    columns: int = COLUMNS,
    most_cells: int = MOST_CELLS,
) -> tuple[list[RunHeatMap], int]:
    """Heat maps of `runs`, and how many are left out because there are too many.

    Args:
        runs: with any names.
        charts: those of layers that are shown as heat maps.
        rows: of a density, and the most of layers.
        columns: the most of each.
        most_cells: of all together.
    """
    makers = [
        *_densities(runs, rows),
        *(
            _layers(i, run, chart, rows)
            for chart in charts
            for i, run in enumerate(runs)
            if lines_of(run, chart)
        ),
        *_layer_densities(runs, rows),
    ]
    kept = makers[: max(1, most_cells // (rows * FEWEST_COLUMNS))]
    columns = max(FEWEST_COLUMNS, min(columns, most_cells // (rows * max(1, len(kept)))))
    return [make(columns) for make in kept], len(makers) - len(kept)


_Maker = Callable[[int], RunHeatMap]


def _densities(runs: Sequence[LoggedRun], rows: int) -> list[_Maker]:
    """Those of whole networks, on axes of their own: at other scales nothing could be seen."""

    def make(i: int, name: str) -> _Maker:
        density = runs[i].densities[name]
        return lambda columns: RunHeatMap(
            density_title(name),
            _HOW_DENSITY,
            "Spectrum",
            i,
            density,
            density_map(density.histograms, rows=rows, columns=columns),
        )

    return [make(i, name) for i, run in enumerate(runs) for name in whole_densities(run.densities)]


def _layer_densities(runs: Sequence[LoggedRun], rows: int) -> list[_Maker]:
    """Those of some layers, on the same axes for all of a run."""

    def make(i: int, name: str, axes: DensityAxes, note: str) -> _Maker:
        density = runs[i].densities[name]
        return lambda columns: RunHeatMap(
            density_title(name),
            _HOW_DENSITY + note,
            DENSITIES,
            i,
            density,
            density_map(density.histograms, rows=rows, columns=columns, axes=axes),
        )

    makers = []
    for i, run in enumerate(runs):
        names = layer_densities(run.densities)
        shown = [names[j] for j in evenly_spaced(len(names), _LAYERS)] if names else []
        note = f" {len(shown)} of {len(names)} layers are shown." if len(shown) < len(names) else ""
        if shown:
            axes = DensityAxes.of([h for name in shown for h in run.densities[name].histograms])
            makers += [make(i, name, axes, note) for name in shown]
    return makers


def _layers(i: int, run: LoggedRun, chart: Chart, rows: int) -> _Maker:
    """One metric of all layers of a run."""

    def make(columns: int) -> RunHeatMap:
        lines = lines_of(run, chart)
        steps, values = aligned({line.label: (line.curve.steps, line.curve.values) for line in lines})
        heat = layer_map(values, rows=rows, columns=columns)
        times, epochs = np.full(len(steps), np.nan), np.full(len(steps), np.nan)
        for line in lines:
            where = np.searchsorted(steps, line.curve.steps)
            times[where], epochs[where] = line.curve.times, line.curve.epochs
        source = LoggedCurve(steps, np.full(len(steps), np.nan), times, epochs)
        shown, count = len(heat.names), len(values)
        note = f" {shown} of {count} layers have a row." if shown < count else ""
        how = f"{chart.how} A row for each layer, the first at the top.{note}"
        return RunHeatMap(chart.title, how, section_of(chart), i, source, heat)

    return make
