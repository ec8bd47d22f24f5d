"""Small line charts and heat maps in the terminal."""

from __future__ import annotations

import numpy as np
from rich.text import Text

from curvwatch.charts import Chart
from curvwatch.charts.heat_maps import HeatMap, column_edges
from curvwatch.report.heat_maps import RunHeatMap
from curvwatch.report.logs import LoggedCurve, LoggedRun
from curvwatch.report.run_charts import is_edge, is_logarithmic, lines_of, thin
from curvwatch.report.text import number, printable

_ASCII = str.maketrans("─│┌┐└┘├┤┬┴┼", "-|+++++++++")
_COLOURS = ("blue", "orange", "green", "magenta", "cyan", "red")
_STYLES = ("blue", "dark_orange", "green", "magenta", "cyan", "red")
# from few to many
_SHADES, _ASCII_SHADES = "·░▒▓█", ".:=*#"


def draw(run: LoggedRun, chart: Chart, width: int, height: int, *, unicode: bool = True) -> Text:
    """`chart` in `width` x `height` characters, coloured."""
    import plotext

    lines = lines_of(run, chart)
    points = [(line, *_points(line.curve, 4 * width)) for line in lines]
    everything = np.concatenate([values for _, _, values in points])
    logarithmic = is_logarithmic(chart, everything)
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(width, height)
    for i, (line, steps, values) in enumerate(points):
        dotted = is_edge(line.name)
        marker = "." if dotted or not unicode else "braille"
        shown = np.log10(values) if logarithmic else values
        plotext.plot(steps.tolist(), shown.tolist(), marker=marker, color=_COLOURS[i % len(_COLOURS)])
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
    steps = np.concatenate([steps for _, steps, _ in points])
    marks = sorted({int(steps.min()), int(np.median([steps.min(), steps.max()])), int(steps.max())})
    plotext.xticks(marks, [str(mark) for mark in marks])
    built = plotext.build().rstrip("\n")
    text = Text.from_ansi(built if unicode else built.translate(_ASCII), no_wrap=True)
    head = Text(f"{printable(chart.title)}{' (log axis)' if logarithmic else ''}", "bold")
    named = [(i, line) for i, line in enumerate(lines) if line.label not in ("", "edge")]
    for i, line in named:
        head.append(": " if line is named[0][1] else ", ")
        head.append(printable(line.label), _STYLES[i % len(_STYLES)])
    head.truncate(width, overflow="crop", pad=True)
    return Text("\n").join([head, text])


def draw_heat(heat: RunHeatMap, width: int, *, unicode: bool = True) -> Text:
    """`heat` over the optimizer's steps, `width` characters wide, two lines more than it has rows."""
    drawn, shades = heat.map, heat.map.shades
    labels = _labels(drawn, min(16, width // 3))
    room = max(1, width - len(labels[0]) - 1)
    edges = column_edges(heat.source.steps[drawn.columns].astype(float))
    at = edges[0] + (np.arange(room) + 0.5) / room * (edges[-1] - edges[0])
    columns = (np.searchsorted(edges, at, side="right") - 1).clip(0, len(drawn.columns) - 1)
    letters = _SHADES if unicode else _ASCII_SHADES
    text = Text(f"{printable(heat.title)} ({number(drawn.low)} to {number(drawn.high)})", "bold")
    text.truncate(width, overflow="crop", pad=True)
    text = Text.assemble(text)
    for row, label in zip(shades[::-1], labels, strict=True):
        text.append("\n" + label + ("│" if unicode else "|"))
        for shade in row[columns]:
            size = abs(2 * shade - 1) if drawn.is_signed else shade
            letter = (
                " " if np.isnan(shade) else letters[min(len(letters) - 1, int(size * len(letters)))]
            )
            text.append(letter, "red" if drawn.is_signed and shade < 0.5 else "blue")
    first, last = (str(heat.source.steps[drawn.columns[i]]) for i in (0, -1))
    text.append("\n" + " " * (len(labels[0]) + 1) + first)
    text.append(last.rjust(room - len(first)) if last != first else "")
    return text


def _labels(drawn: HeatMap, width: int) -> list[str]:
    """What is written beside each row, from the top, all of one length."""
    count = len(drawn.cells)
    labels = list(drawn.names)
    if not labels:
        labels = [""] * count
        for tick in drawn.ticks:
            labels[min(count - 1, int(drawn.height_of(tick) * count))] = number(tick)
    labels = [printable(name)[-width:] for name in reversed(labels)]
    longest = max(8, *map(len, labels))
    return [name.rjust(longest) for name in labels]


def _points(curve: LoggedCurve, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The finite values, thinned."""
    finite = np.isfinite(curve.values)
    steps, values = curve.steps[finite], curve.values[finite]
    kept = thin(values, most)
    return steps[kept], values[kept]
