"""The table at the end of the demo."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from curvwatch.cli.demo.digits import RUNS
from curvwatch.results import History

# at the edge a single reading may be anywhere in an oscillation
READINGS = 10


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        label: for people.
        metric: that it shows.
        meaning: how to read it.
        readings: it is the median of so many last readings.
        style: how a number below 1000 is written.
    """

    label: str
    metric: str
    meaning: str
    readings: int = READINGS
    style: str = ".3g"


ROWS = (
    Row("final loss", "curvature/loss", "on all digits", readings=1, style=".4f"),
    Row("sharpness", "curvature/sharpness", "largest eigenvalue"),
    Row("edge, 2/lr", "curvature/edge", "the textbook edge"),
    Row("effective sharpness", "curvature/effective_sharpness", "preconditioned"),
    Row("effective edge", "curvature/effective_edge", "the optimizer's own"),
    Row("stability ratio", "curvature/stability_ratio", "1 is the edge", style=".2f"),
    Row("directional sharpness", "step/directional_sharpness", "curvature of the step"),
    Row("gradient correlation", "step/gradient_correlation", "slope of the step"),
    Row("Hessian products", "curvature/cost_hvps", "for one reading"),
    Row("time spent measuring", "curvature/cost_share", "every 20 steps", readings=1, style=".0%"),
)


def value_of(row: Row, history: History) -> float:
    """The number of `row` for one run; nan where it was never read."""
    if row.metric not in history:
        return math.nan
    return float(np.median(history[row.metric].values[-row.readings :]))


def written(row: Row, value: float) -> str:
    """`value` as the table has it."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else format(value, row.style)


def results_table(histories: Mapping[str, History]) -> Table:
    """One column for each run."""
    caption = f"Loss and time: the last reading; else medians of the last {READINGS}."
    table = Table(box=SIMPLE_HEAD, caption=caption)
    table.add_column("", no_wrap=True)
    for name in histories:
        table.add_column(RUNS[name].label, justify="right", no_wrap=True)
    table.add_column("", style="dim", no_wrap=True)
    for row in ROWS:
        cells = [written(row, value_of(row, history)) for history in histories.values()]
        table.add_row(row.label, *cells, row.meaning)
    return table
