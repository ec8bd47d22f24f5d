"""Words beside points of a plane, where they hide least."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# from the point to its label, in points of print
_AWAY = 7.0
# sides in the order that they are tried in: right or left, above or below; 0: beside, over, under it
_SIDES = ((1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
_ALIGNED = {1: ("left", "bottom"), 0: ("center", "center"), -1: ("right", "top")}
# sampled on each stretch between two points
_BETWEEN = 50


def label(
    axes: Axes, points: np.ndarray, texts: Mapping[int, str], *, path: bool, **style: Any
) -> None:
    """Write `texts` beside their points, each on the side where it hides the fewest points.

    Args:
        axes: with their limits and their place in the figure set.
        points: (m, 2) all points that are drawn.
        texts: from the index of a point to its label.
        path: whether a line joins the points.
        style: of the words.
    """
    line = axes.transData.transform(points_along(points) if path else points)
    inside = axes.get_window_extent()
    taken: list[Any] = []
    for i, text in texts.items():
        words = axes.annotate(
            text, points[i], xytext=(0, 0), textcoords="offset points", fontsize="small", **style
        )
        boxes = []
        for side in _SIDES:
            _put(words, side)
            boxes.append(words.get_window_extent())
        costs = [_cost(box, line, inside, taken) for box in boxes]
        best = int(np.argmin(costs))
        _put(words, _SIDES[best])
        taken.append(boxes[best])


def points_along(points: np.ndarray) -> np.ndarray:
    """Places all along the line through `points` (m, k), shape (n, k)."""
    share = np.linspace(0.0, 1.0, _BETWEEN)[:, None]
    stretches = [a + share * (b - a) for a, b in pairwise(points)]
    return np.concatenate([points[:1], *stretches])


def _put(words: Any, side: tuple[int, int]) -> None:
    words.set_position(tuple(_AWAY * s for s in side))
    words.set(ha=_ALIGNED[side[0]][0], va=_ALIGNED[side[1]][1])


def _cost(box: Any, line: np.ndarray, inside: Any, taken: list[Any]) -> float:
    """What a label at `box` would hide; a part outside, or on another label, is worse than a line."""
    margin = 2.0
    hidden = (
        (line[:, 0] > box.x0 - margin)
        & (line[:, 0] < box.x1 + margin)
        & (line[:, 1] > box.y0 - margin)
        & (line[:, 1] < box.y1 + margin)
    ).sum()
    outside = not (
        inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
    )
    overlaps = sum(bool(box.overlaps(other)) for other in taken)
    return float(hidden) + 1e6 * (outside + overlaps)
