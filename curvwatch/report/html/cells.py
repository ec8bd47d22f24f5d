"""Heat maps as the page draws them, as JSON."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from curvwatch.charts.heat_maps import column_edges
from curvwatch.report.heat_maps import RunHeatMap
from curvwatch.report.html.payload import positions, rounded
from curvwatch.report.text import number, printable

# a letter a cell: its colour, one of 64; a blank where there is nothing
SHADES = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_BLANK = " "
_MOST_NAMES = 20


def heat_payload(heat: RunHeatMap, x: str) -> dict[str, Any]:
    """What the page draws of `heat`.

    Args:
        heat: one heat map.
        x: "step", "time" or "epoch"; readings for which the log has none are left out.

    Returns:
        {"run", "x": where columns begin, and where the last one ends, "rows": how many, "cells": a text
        with a letter for each cell, column by column, upwards, "names": of the rows or null, "low",
        "high", "linear": of the axis, "ticks": [[height from 0 to 1, text]...], "colours": {"low",
        "high", "scale", "middle", "signed"}}.
    """
    drawn = heat.map
    places = positions(heat.source, x)[drawn.columns]
    shown = _rising(places)
    letters = np.array([*SHADES, _BLANK])
    shades = drawn.shades[:, shown]
    missing = np.isnan(shades)
    levels = np.where(missing, 0.0, shades * (len(SHADES) - 1)).round().astype(int)
    levels[missing] = len(SHADES)
    edges = column_edges(places[shown]) if len(shown) else np.empty(0)
    low, high = float(drawn.edges[0]), float(drawn.edges[-1])
    return {
        "run": heat.run,
        "x": [rounded(float(edge), 7) for edge in edges],
        "rows": len(drawn.cells),
        "cells": "".join(letters[levels.T].ravel().tolist()),
        "names": [printable(name) for name in drawn.names] or None,
        "low": rounded(low, 7),
        "high": rounded(high, 7),
        "linear": None if drawn.linear is None else rounded(drawn.linear, 7),
        "ticks": _ticks(heat),
        "colours": {
            "low": rounded(drawn.low),
            "high": rounded(drawn.high),
            "scale": drawn.scale,
            "middle": rounded(drawn.middle),
            "signed": drawn.is_signed,
        },
    }


def _rising(places: np.ndarray) -> np.ndarray:
    """The columns with a place, in its order; of those with the same place the last one."""
    placed = np.flatnonzero(np.isfinite(places))
    order = placed[np.argsort(places[placed], kind="stable")]
    return order[np.append(np.diff(places[order]) != 0, True)] if len(order) else order


def _ticks(heat: RunHeatMap) -> list[list[Any]]:
    drawn = heat.map
    if drawn.names:
        count = len(drawn.names)
        labelled = range(count - 1, -1, -math.ceil(count / _MOST_NAMES))
        return [[rounded((i + 0.5) / count), printable(drawn.names[i])] for i in reversed(labelled)]
    return [[rounded(drawn.height_of(tick)), number(tick)] for tick in drawn.ticks]
