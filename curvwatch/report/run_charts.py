"""Which charts a run has, the lines on each, and their errors; for the terminal and the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from curvwatch.charts import (
    CHARTS,
    FIRST,
    SECTIONS,
    Chart,
    errors_of,
    half_widths,
    has_place,
    match,
    names_of,
)
from curvwatch.report.logs import LoggedCurve, LoggedRun
from curvwatch.report.text import natural

# a chart with a line for each of more layers than this cannot be read: a heat map can
MOST_LAYERS = 12


class Line(NamedTuple):
    """One line of a chart.

    Attributes:
        name: of the metric, with its suffix.
        curve: its values.
        which: of the chart's metrics it is.
        label: what distinguishes it from the other lines of the run, such as a layer; often "".
        depth: from 0 for the first to 1 for the last of several layers or numbers; None: there is one.
    """

    name: str
    curve: LoggedCurve
    which: int = 0
    label: str = ""
    depth: float | None = None


def lines_of(run: LoggedRun, chart: Chart) -> list[Line]:
    """What `chart` shows of `run`: those of its metrics that have any values; layers in their order."""
    lines: list[Line] = []
    for which, metric in enumerate(chart.metrics):
        named = chart.lines[which] if chart.lines else "edge" if is_edge(metric) else ""
        names = [n for n in names_of(metric, run.curves) if np.isfinite(run.curves[n].values).any()]
        if chart.is_of_layers:
            names = _by_depth(run, names)
        several = has_place(metric) and len(names) > 1
        for i, name in enumerate(names):
            agreed = match(metric, name)
            parts = (agreed.place, agreed.suffix.lstrip("-/"), named) if agreed else ()
            label = " ".join(part for part in parts if part)
            depth = i / (len(names) - 1) if several else None
            lines.append(Line(name, run.curves[name], which, label, depth))
    return lines


def errors_around(run: LoggedRun, name: str) -> np.ndarray | None:
    """(n,) how far each value of `name` may be off; nan where unknown; None: it has no error."""
    curve = run.curves[name]
    errors = errors_of(name)
    others = {}
    for other in {of for error in errors for of in (error.metric, error.per) if of in run.curves}:
        at, values = run.curves[other].steps, run.curves[other].values
        where = np.searchsorted(at, curve.steps).clip(max=len(at) - 1)
        others[other] = np.where(at[where] == curve.steps, values[where], np.nan)
    widths = half_widths(curve.values, errors, others)
    return widths if np.isfinite(widths).any() else None


def charts_of(runs: Sequence[LoggedRun], metrics: Sequence[str] = ()) -> list[Chart]:
    """The charts that any of `runs` has values for, `metrics` first, each section together.

    Runs without metrics of curvwatch show some of their own.
    """
    ours = [_with_headline(chart) for chart in _in_order() if _has(runs, chart)]
    logged = sorted({name for run in runs for name in run.curves})
    requested = list(metrics) or ([] if ours else logged[: len(FIRST)])
    named = [Chart(name, "As logged.", (name,)) for name in requested if name in logged]
    return [*(chart for chart in named if chart.metrics not in [c.metrics for c in ours]), *ours]


def section_of(chart: Chart) -> str:
    """The section of `chart`; "" of those that come first."""
    return _SECTION_OF.get(chart.metrics, "")


def is_crowded(runs: Sequence[LoggedRun], chart: Chart) -> bool:
    """Whether `chart` has a line for each of too many layers."""
    return chart.is_of_layers and any(len(lines_of(run, chart)) > MOST_LAYERS for run in runs)


def _in_order() -> list[Chart]:
    first = [CHARTS[title] for title in FIRST]
    return [*first, *(c for c in CHARTS.values() if not c.boards_only and c.title not in FIRST)]


_SECTION_OF = {
    chart.metrics: section
    for section, charts in SECTIONS.items()
    for chart in charts
    if chart.title not in FIRST
}


def _has(runs: Sequence[LoggedRun], chart: Chart) -> bool:
    needed = Chart("", "", chart.needs or chart.metrics)
    return any(lines_of(run, needed) for run in runs)


def _with_headline(chart: Chart) -> Chart:
    return chart._replace(title=chart.headline or chart.title)


def _by_depth(run: LoggedRun, names: Sequence[str]) -> list[str]:
    """Metrics of layers in the order of the layers: as they were logged, else by their numbers."""
    if run.kind == "history":
        return list(names)
    first = {name: float(run.curves[name].times[0]) for name in names}
    # a row of W&B or of a table has one time, and no order
    return sorted(names, key=lambda n: (0.0 if np.isnan(first[n]) else first[n], natural(n)))


def is_logarithmic(chart: Chart, values: np.ndarray) -> bool:
    """Whether all of the finite `values` are shown in powers of ten.

    They are where the chart asks for it, or where one run that diverged would flatten all others.
    """
    if not len(values) or values.min() <= 0 or (chart.level is not None and chart.level <= 0):
        return False
    return chart.log or bool(values.max() > 100 * np.median(values))


def is_edge(metric: str) -> bool:
    """Whether its line is one that others are read against."""
    return metric.startswith(("curvature/effective_edge", "curvature/edge"))


def thin(values: np.ndarray, most: int) -> np.ndarray:
    """Positions, in order, of at most `most` of the (n,) values, so that a curve keeps its shape.

    The smallest and the largest of each stretch are kept, the first and the last, and one that is
    missing in a stretch that has any: peaks and gaps stay.
    """
    count = len(values)
    if count <= most:
        return np.arange(count)
    finite = np.isfinite(values)
    kept = {0, count - 1}
    for stretch in np.array_split(np.arange(count), max(1, (most - 2) // 3)):
        present = stretch[finite[stretch]]
        if len(present):
            kept |= {int(present[values[present].argmin()]), int(present[values[present].argmax()])}
        if len(present) < len(stretch):
            kept.add(int(stretch[~finite[stretch]][0]))
    return np.array(sorted(kept))
