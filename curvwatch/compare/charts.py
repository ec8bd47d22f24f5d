"""Small line charts in the terminal."""

from __future__ import annotations

import numpy as np
from rich.text import Text

from curvwatch.compare.panels import Panel, is_edge, is_logarithmic, lines_of, thinned
from curvwatch.compare.run import Curve, LoggedRun
from curvwatch.compare.text import printable

_ASCII = str.maketrans("─│┌┐└┘├┤┬┴┼", "-|+++++++++")
_COLOURS = ("blue", "orange", "green", "magenta", "cyan", "red")


def draw(run: LoggedRun, panel: Panel, width: int, height: int, *, unicode: bool = True) -> Text:
    """`panel` in `width` x `height` characters, coloured."""
    import plotext

    lines = lines_of(run, panel)
    points = {name: _points(curve, 4 * width) for name, curve in lines.items()}
    everything = np.concatenate([values for _, values in points.values()])
    logarithmic = is_logarithmic(panel, everything)
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(width, height)
    for i, (name, (steps, values)) in enumerate(points.items()):
        dotted = is_edge(name)
        marker = "." if dotted or not unicode else "braille"
        shown = np.log10(values) if logarithmic else values
        plotext.plot(steps.tolist(), shown.tolist(), marker=marker, color=_COLOURS[i % len(_COLOURS)])
    low, high = float(everything.min()), float(everything.max())
    if panel.level is not None:
        low, high = min(low, panel.level), max(high, panel.level)
        plotext.hline(panel.level, "gray")
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
    suffixes = ", ".join(name for name in lines if name not in panel.metrics)
    title = f"{printable(panel.title)}{' (log axis)' if logarithmic else ''}"
    head = Text(f"{title}{': ' if suffixes else ''}{printable(suffixes)}", "bold")
    head.truncate(width, overflow="crop", pad=True)
    return Text("\n").join([head, text])


def _points(curve: Curve, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The finite values, thinned."""
    known = np.isfinite(curve.values)
    steps, values = curve.steps[known], curve.values[known]
    kept = thinned(values, most)
    return steps[kept], values[kept]
