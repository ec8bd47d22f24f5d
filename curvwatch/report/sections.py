"""All charts of runs, in the order in which the report and the terminal show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from curvwatch.charts import SECTIONS, Chart
from curvwatch.report.heat_maps import COLUMNS, DENSITIES, MOST_CELLS, ROWS, RunHeatMap, heats_of
from curvwatch.report.logs.logged_run import LoggedRun
from curvwatch.report.panels import is_crowded, panels_of, section_of


class Section(NamedTuple):
    """Charts that belong together.

    Attributes:
        title: "" of those that come first.
        heats: of each run.
        panels: of all runs.
    """

    title: str
    heats: list[RunHeatMap]
    panels: list[Chart]


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
    known = panels_of(runs, metrics)
    crowded = [panel for panel in known if is_crowded(runs, panel)]
    heats, left_out = heats_of(runs, crowded, rows=rows, columns=columns, most_cells=most_cells)
    titles = ["", *SECTIONS]
    titles.insert(titles.index("Layers") + 1, DENSITIES)
    sections = [
        Section(
            title,
            [heat for heat in heats if heat.section == title],
            [panel for panel in known if panel not in crowded and section_of(panel) == title],
        )
        for title in titles
    ]
    return [section for section in sections if section.heats or section.panels], left_out
