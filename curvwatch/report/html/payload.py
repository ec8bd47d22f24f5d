"""What the page draws, as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from curvwatch.charts import Chart
from curvwatch.report.logs.logged_run import Curve, LoggedDensity, LoggedRun
from curvwatch.report.panels import (
    Line,
    errors_around,
    is_edge,
    is_logarithmic,
    lines_of,
    thinned,
)
from curvwatch.report.text import printable

DIGITS = 4


def positions(curve: Curve | LoggedDensity, x: str) -> np.ndarray:
    """(n,) float64, where readings lie on the axis; nan where the log does not tell."""
    return {"step": curve.steps.astype(float), "time": curve.times, "epoch": curve.epochs}[x]


def rounded(value: float, digits: int = DIGITS) -> float:
    """A number with few digits, a whole one where it is."""
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


# together some 320 kB; a curve has this share of them, but not less than would make a shape
MOST_POINTS, FEWEST = 32_000, 40


def payload(runs: Sequence[LoggedRun], panels: Sequence[Chart], x: str) -> dict[str, Any]:
    """Runs, panels and alerts.

    Args:
        runs: with any names.
        panels: what is drawn.
        x: "step", "time" (seconds since the run's first value) or "epoch".

    Returns:
        {"x": x, "runs": [{"name", "alerts": [[x, rule, text, step]...]}], "panels": [{"title",
        "level", "scale": "linear", "log" or "asinh", "linear": where asinh turns, "lines": [{"run",
        "label", "edge", "x", "y"}]}], "thinned": whether curves are}; y has null for what is missing.
        Some lines have "error", how far each y may be off or null, "depth" from 0 to 1, and "which" of
        the metrics of their chart they are.
    """
    count = sum(len(lines_of(run, panel)) for panel in panels for run in runs)
    most = max(FEWEST, MOST_POINTS // max(1, count))
    drawn = [_panel(runs, panel, x, most) for panel in panels]
    longest = max(
        (len(line.curve.values) for p in panels for r in runs for line in lines_of(r, p)), default=0
    )
    return {
        "x": x,
        "runs": [{"name": printable(run.name), "alerts": _alerts(run, x)} for run in runs],
        "panels": drawn,
        "thinned": longest > most,
    }


def _panel(runs: Sequence[LoggedRun], panel: Chart, x: str, most: int) -> dict[str, Any]:
    lines: list[dict[str, Any]] = []
    values = [np.empty(0)]
    for i, run in enumerate(runs):
        for line in lines_of(run, panel):
            values.append(line.curve.values[np.isfinite(line.curve.values)])
            lines.append({"run": i, **_line(run, line, x, most)})
    lines.sort(key=lambda line: bool(line["edge"]))  # edges lie on top
    everything = np.concatenate(values)
    scale, linear = _scale(panel, everything)
    return {
        "title": printable(panel.title),
        "level": panel.level,
        "scale": scale,
        "linear": linear,
        "lines": lines,
    }


def _scale(panel: Chart, values: np.ndarray) -> tuple[str, float]:
    """Powers of ten for values of both signs, too, where a few are far away from the rest."""
    if is_logarithmic(panel, values):
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
    kept = placed[thinned(curve.values[placed], most)] if len(placed) else placed
    told: dict[str, Any] = {
        "label": printable(line.label),
        "edge": is_edge(line.name),
        "x": [rounded(float(v), 7) for v in where[kept]],
        "y": [_known(v) for v in curve.values[kept]],
    }
    errors = errors_around(run, line.name)
    if errors is not None:
        told["error"] = [_known(v) for v in errors[kept]]
    if line.depth is not None:
        told["depth"] = rounded(line.depth)
    if line.which and not told["edge"]:
        told["which"] = line.which
    return told


def _known(value: float) -> float | None:
    return rounded(float(value)) if math.isfinite(value) else None


def _alerts(run: LoggedRun, x: str) -> list[list[Any]]:
    placed = []
    for alert in run.alerts:
        at = float(alert.step) if x == "step" else _place(run, alert.step, x)
        if math.isfinite(at):
            placed.append([rounded(at, 7), printable(alert.rule), printable(alert.text), alert.step])
    return placed


def _place(run: LoggedRun, step: int, x: str) -> float:
    """Time or epoch of a step, between those of the readings beside it; nan where none is known."""
    best = math.nan
    for curve in run.curves.values():
        where = positions(curve, x)
        known = np.isfinite(where)
        if known.any():
            best = float(np.interp(step, curve.steps[known], where[known]))
            if step in curve.steps[known]:
                break
    return best
