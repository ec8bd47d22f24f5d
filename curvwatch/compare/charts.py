"""Small line charts in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich.text import Text

from curvwatch.compare.run import Curve, LoggedRun
from curvwatch.compare.summary import variant_names
from curvwatch.compare.text import printable

_ASCII = str.maketrans("─│┌┐└┘├┤┬┴┼", "-|+++++++++")
_COLOURS = ("blue", "orange", "green", "magenta", "cyan", "red")


class Chart(NamedTuple):
    """What one chart shows.

    Attributes:
        title: how to read it.
        metrics: its lines; those of which the log has none are left out.
        level: a line across, which the curves are read against.
        log: powers of ten on the axis, where all values are positive.
    """

    title: str
    metrics: tuple[str, ...]
    level: float | None = None
    log: bool = False


CHARTS = (
    Chart("loss on the probe", ("curvature/loss",)),
    Chart(
        "effective sharpness, and its edge (dots)",
        ("curvature/effective_sharpness", "curvature/effective_edge"),
        log=True,
    ),
    Chart("stability ratio: 1 is the edge", ("curvature/stability_ratio",), level=1.0),
    Chart("directional sharpness of the step", ("step/directional_sharpness",), log=True),
    Chart("stability ratio of the step: over 1 it overshoots", ("step/stability_ratio",), level=1.0),
    Chart("gradient correlation: below 0 is downhill", ("step/gradient_correlation",)),
)


def charts_of(run: LoggedRun, metrics: Sequence[str] = ()) -> list[Chart]:
    """Those that `run` has values for; a run without metrics of curvwatch shows its own."""
    known = [chart for chart in CHARTS if _lines(run, chart)]
    wanted = list(metrics) or ([] if known else sorted(run.curves)[: len(CHARTS)])
    return [*(Chart(name, (name,)) for name in wanted if name in run.curves), *known]


def draw(run: LoggedRun, chart: Chart, width: int, height: int, *, unicode: bool = True) -> Text:
    """`chart` in `width` x `height` characters, coloured."""
    import plotext

    lines = _lines(run, chart)
    points = {name: _thinned(curve, 4 * width) for name, curve in lines.items()}
    logarithmic = chart.log and all((values > 0).all() for _, values in points.values())
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(width, height)
    for i, (name, (steps, values)) in enumerate(points.items()):
        dotted = "edge" in name
        marker = "." if dotted or not unicode else "braille"
        shown = np.log10(values) if logarithmic else values
        plotext.plot(steps.tolist(), shown.tolist(), marker=marker, color=_COLOURS[i % len(_COLOURS)])
    everything = np.concatenate([values for _, values in points.values()])
    low, high = float(everything.min()), float(everything.max())
    if chart.level is not None:
        low, high = min(low, chart.level), max(high, chart.level)
        plotext.hline(chart.level, "gray")
    if logarithmic:
        low, high = float(np.log10(low)), float(np.log10(high))
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # a flat line needs room
        room = 0.5 if logarithmic else 0.1 * max(abs(low), 1e-12)
        low, high = low - room, high + room
    ticks = np.linspace(low, high, 3)
    plotext.ylim(low, high)
    plotext.yticks(ticks.tolist(), [f"{10**t if logarithmic else t:8.3g}" for t in ticks])
    steps = np.concatenate([steps for steps, _ in points.values()])
    marks = sorted({int(steps.min()), int(np.median([steps.min(), steps.max()])), int(steps.max())})
    plotext.xticks(marks, [str(mark) for mark in marks])
    built = plotext.build().rstrip("\n")
    text = Text.from_ansi(built if unicode else built.translate(_ASCII), no_wrap=True)
    suffixes = ", ".join(name for name in lines if name not in chart.metrics)
    title = f"{printable(chart.title)}{' (log axis)' if logarithmic else ''}"
    head = Text(f"{title}{': ' if suffixes else ''}{printable(suffixes)}", "bold")
    head.truncate(width, overflow="crop", pad=True)
    return Text("\n").join([head, text])


def _lines(run: LoggedRun, chart: Chart) -> dict[str, Curve]:
    names = [name for metric in chart.metrics for name in variant_names(run, metric)]
    return {n: run.curves[n] for n in names if np.isfinite(run.curves[n].values).any()}


def _thinned(curve: Curve, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The finite values; of more than `most` the smallest and largest of each stretch."""
    known = np.isfinite(curve.values)
    steps, values = curve.steps[known], curve.values[known]
    if len(values) <= most:
        return steps, values
    kept: list[int] = []
    for stretch in np.array_split(np.arange(len(values)), most // 2):
        kept += sorted({int(stretch[values[stretch].argmin()]), int(stretch[values[stretch].argmax()])})
    return steps[kept], values[kept]
