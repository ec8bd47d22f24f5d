"""The look of the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe & Ito: told apart with any colour vision
BLUE, ORANGE, GREEN, RED, SKY, PURPLE = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00"),
    *("#56B4E9", "#CC79A7"),
)
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
GREY = "0.4"


def panels(columns: int, rows: int = 1, **options: Any) -> tuple[Figure, Sequence[Axes]]:
    """A figure with panels of the usual size, in reading order."""
    figure = Figure(figsize=(5.2 * columns, 3.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="0.92", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, list(np.asarray(grid).flat)


def band(axes: Axes, x: Any, y: Any, error: Any, *, color: str, label: str) -> None:
    """A line with its error around it."""
    x, y, error = (np.asarray(v, dtype=float) for v in (x, y, error))
    axes.plot(x, y, color=color, linewidth=1.8, label=label)
    axes.fill_between(x, y - error, y + error, color=color, alpha=0.18, linewidth=0)
