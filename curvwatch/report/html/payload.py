"""Curves and alerts as the page draws them, as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from curvwatch.charts import Chart
from curvwatch.report.logs import LoggedCurve, LoggedDensity, LoggedRun
from curvwatch.report.run_charts import (
    Line,
    errors_around,
    is_edge,
    is_logarithmic,
    lines_of,
    thin,
)
from curvwatch.report.text import printable

DIGITS = 4
# of all curves together, some 320 kB; each has an equal share of them, but enough to show its shape
MOST_POINTS, FEWEST_POINTS = 32_000, 40


def payload(runs: Sequence[LoggedRun], charts: Sequence[Chart], x: str) -> dict[str, Any]:
    """Runs, charts and alerts.

    Args:
        runs: with any names.
        charts: what is drawn.
        x: "step", "time" (seconds since the run's first value) or "epoch".

    Returns:
        {"x": x, "runs": [{"name", "alerts": [[x, rule, text, step]...]}], "panels": [{"title",
        "level", "scale": "linear", "log" or "asinh", "linear": where asinh turns, "lines": [{"run",
        "label", "edge", "x", "y"}]}], "thinned": whether curves are}; y has null for what is missing.
        Some lines have "error", how far each y may be off or null, "depth" from 0 to 1, and "which" of
        the metrics of their chart they are.
    """
    count = sum(len(lines_of(run, chart)) for chart in charts for run in runs)
    most = max(FEWEST_POINTS, MOST_POINTS // max(1, count))
    drawn = [_panel(runs, chart, x, most) for chart in charts]
    longest = max(
        (len(line.curve.values) for c in charts for r in runs for line in lines_of(r, c)), default=0
    )
    return {
        "x": x,
        "runs": [{"name": printable(run.name), "alerts": _alerts(run, x)} for run in runs],
        "panels": drawn,
        "thinned": longest > most,
    }


def positions(curve: LoggedCurve | LoggedDensity, x: str) -> np.ndarray:
    """(n,) float64, where readings lie on the axis; nan where the log does not say."""
    return {"step": curve.steps.astype(float), "time": curve.times, "epoch": curve.epochs}[x]


def rounded(value: float, digits: int = DIGITS) -> float:
    """A number with few digits, a whole one where it is."""
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def _panel(runs: Sequence[LoggedRun], chart: Chart, x: str, most: int) -> dict[str, Any]:
    lines: list[dict[str, Any]] = []
    values = [np.empty(0)]
    for i, run in enumerate(runs):
        for line in lines_of(run, chart):
            values.append(line.curve.values[np.isfinite(line.curve.values)])
            lines.append({"run": i, **_line(run, line, x, most)})
    lines.sort(key=lambda line: bool(line["edge"]))  # edges lie on top
    everything = np.concatenate(values)
    scale, linear = _scale(chart, everything)
    return {
        "title": printable(chart.title),
        "level": chart.level,
        "scale": scale,
        "linear": linear,
        "lines": lines,
    }


def _scale(chart: Chart, values: np.ndarray) -> tuple[str, float]:
    """Powers of ten for values of both signs, too, where a few are far away from the rest."""
    if is_logarithmic(chart, values):
        return "log", 1.0
    size = np.abs(values)
    middle = float(np.median(size)) if len(size) else 0.0
    return ("asinh", rounded(middle)) if middle > 0 and size.max() > 100 * middle else ("linear", 1.0)


def _line(run: LoggedRun, line: Line, x: str, most: int) -> dict[str, Any]:
    curve = line.curve
    where = positions(curve, x)
    placed = np.flatnonzero(np.isfinite(where))
    # a resumed run may come back to where it was
    placed = placed[np.argsort(where[placed], kind="stable")]
    kept = placed[thin(curve.values[placed], most)] if len(placed) else placed
    drawn: dict[str, Any] = {
        "label": printable(line.label),
        "edge": is_edge(line.name),
        "x": [rounded(float(v), 7) for v in where[kept]],
        "y": [_rounded_or_none(v) for v in curve.values[kept]],
    }
    errors = errors_around(run, line.name)
    if errors is not None:
        drawn["error"] = [_rounded_or_none(v) for v in errors[kept]]
    if line.depth is not None:
        drawn["depth"] = rounded(line.depth)
    if line.which and not drawn["edge"]:
        drawn["which"] = line.which
    return drawn


def _rounded_or_none(value: float) -> float | None:
    return rounded(float(value)) if math.isfinite(value) else None


def _alerts(run: LoggedRun, x: str) -> list[list[Any]]:
    placed = []
    for alert in run.alerts:
        at = float(alert.step) if x == "step" else _place(run, alert.step, x)
        if math.isfinite(at):
            placed.append([rounded(at, 7), printable(alert.rule), printable(alert.text), alert.step])
    return placed


def _place(run: LoggedRun, step: int, x: str) -> float:
    """Time or epoch of a step, between those of the readings beside it; nan where no curve has any."""
    best = math.nan
    for curve in run.curves.values():
        where = positions(curve, x)
        placed = np.isfinite(where)
        if placed.any():
            best = float(np.interp(step, curve.steps[placed], where[placed]))
            if step in curve.steps[placed]:
                break
    return best
