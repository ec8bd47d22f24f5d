"""Where values lie on the axis of the page, and how they are written into it."""

from __future__ import annotations

import numpy as np

from curvwatch.report.logs.logged_run import Curve, LoggedDensity

DIGITS = 4


def positions(curve: Curve | LoggedDensity, x: str) -> np.ndarray:
    """(n,) float64, where readings lie on the axis; nan where the log does not tell."""
    return {"step": curve.steps.astype(float), "time": curve.times, "epoch": curve.epochs}[x]


def rounded(value: float, digits: int = DIGITS) -> float:
    """A number with few digits, a whole one where it is."""
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
