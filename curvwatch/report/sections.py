"""All charts of runs, in the order in which the report and the terminal show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from curvwatch.charts import SECTIONS, Chart
from curvwatch.report.heat_maps import COLUMNS, DENSITIES, MOST_CELLS, ROWS, RunHeatMap, heat_maps_of
from curvwatch.report.logs import LoggedRun
from curvwatch.report.run_charts import charts_of, is_crowded, section_of


class Section(NamedTuple):
    """Charts that belong together.

    Attributes:
        title: "" of those that come first.
        heat_maps: each of one run.
        charts: each of all runs.
    """

    title: str
    heat_maps: list[RunHeatMap]
    charts: list[Chart]


def sections_of(
    runs: Sequence[LoggedRun],
    metrics: Sequence[str] = (),
    *,
    rows: int = ROWS,
    columns: int = COLUMNS,
    most_cells: int = MOST_CELLS,
) -> tuple[list[Section], int]:
    """The charts that `runs` have values for, and how many heat maps are left out as too many.

    Args:
        runs: with any names.
        metrics: shown first.
        rows: of a heat map of a density, and the most of one of layers.
        columns: the most of a heat map.
        most_cells: of all heat maps together.
    """
    charts = charts_of(runs, metrics)
    crowded = [chart for chart in charts if is_crowded(runs, chart)]
    heat_maps, left_out = heat_maps_of(runs, crowded, rows=rows, columns=columns, most_cells=most_cells)
    titles = ["", *SECTIONS]
    titles.insert(titles.index("Layers") + 1, DENSITIES)
    sections = [
        Section(
            title,
            [heat for heat in heat_maps if heat.section == title],
            [chart for chart in charts if chart not in crowded and section_of(chart) == title],
        )
        for title in titles
    ]
    return [section for section in sections if section.heat_maps or section.charts], left_out
