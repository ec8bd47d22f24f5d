"""What the page draws, as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from curvwatch.compare.panels import Panel, is_edge, is_logarithmic, lines_of, thinned
from curvwatch.compare.run import Curve, LoggedRun
from curvwatch.compare.text import printable

# together some 320 kB; a curve has this share of them, but not less than would make a shape
MOST_POINTS, FEWEST = 32_000, 40
DIGITS = 4


def payload(runs: Sequence[LoggedRun], panels: Sequence[Panel], x: str) -> dict[str, Any]:
    """Runs, panels and alerts.

    Args:
        runs: with any names.
        panels: what is drawn.
        x: "step", "time" (seconds since the run's first value) or "epoch".

    Returns:
        {"x": x, "runs": [{"name", "alerts": [[x, rule, text, step]...]}], "panels": [{"title",
        "level", "scale": "linear", "log" or "asinh", "linear": where asinh turns, "lines": [{"run",
        "label", "edge", "x", "y"}]}], "thinned": whether curves are}; y has null for what is missing.
    """
    count = sum(len(lines_of(run, panel)) for panel in panels for run in runs)
    most = max(FEWEST, MOST_POINTS // max(1, count))
    drawn = [_panel(runs, panel, x, most) for panel in panels]
    longest = max(
        (len(c.values) for p in panels for r in runs for c in lines_of(r, p).values()), default=0
    )
    return {
        "x": x,
        "runs": [{"name": printable(run.name), "alerts": _alerts(run, x)} for run in runs],
        "panels": drawn,
        "thinned": longest > most,
    }


def _panel(runs: Sequence[LoggedRun], panel: Panel, x: str, most: int) -> dict[str, Any]:
    lines: list[dict[str, Any]] = []
    values = [np.empty(0)]
    for i, run in enumerate(runs):
        for name, curve in lines_of(run, panel).items():
            values.append(curve.values[np.isfinite(curve.values)])
            at, y = _points(curve, x, most)
            lines.append(
                {"run": i, "label": _label(name, panel), "edge": is_edge(name), "x": at, "y": y}
            )
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


def _scale(panel: Panel, values: np.ndarray) -> tuple[str, float]:
    """Powers of ten for values of both signs, too, where a few are far away from the rest."""
    if is_logarithmic(panel, values):
        return "log", 1.0
    size = np.abs(values)
    middle = float(np.median(size)) if len(size) else 0.0
    return ("asinh", _rounded(middle)) if middle > 0 and size.max() > 100 * middle else ("linear", 1.0)


def _label(name: str, panel: Panel) -> str:
    """What a line has beside the name of its run."""
    metric = max((m for m in panel.metrics if name.startswith(m)), key=len)
    suffix = name[len(metric) :].lstrip("-/")
    edge = "edge" if is_edge(name) else ""
    return printable(" ".join(part for part in (suffix, edge) if part))


def _points(curve: Curve, x: str, most: int) -> tuple[list[float], list[float | None]]:
    where = positions(curve, x)
    placed = np.flatnonzero(np.isfinite(where))
    # a resumed run may come back to where it was
    placed = placed[np.argsort(where[placed], kind="stable")]
    kept = placed[thinned(curve.values[placed], most)] if len(placed) else placed
    at = [_rounded(float(v), 7) for v in where[kept]]
    return at, [_rounded(float(v)) if math.isfinite(v) else None for v in curve.values[kept]]


def positions(curve: Curve, x: str) -> np.ndarray:
    """(n,) float64, where the values lie on the axis; nan where the log does not tell."""
    return {"step": curve.steps.astype(float), "time": curve.times, "epoch": curve.epochs}[x]


def _alerts(run: LoggedRun, x: str) -> list[list[Any]]:
    placed = []
    for alert in run.alerts:
        at = float(alert.step) if x == "step" else _place(run, alert.step, x)
        if math.isfinite(at):
            placed.append([_rounded(at, 7), printable(alert.rule), printable(alert.text), alert.step])
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


def _rounded(value: float, digits: int = DIGITS) -> float:
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
