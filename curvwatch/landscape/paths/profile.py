"""The losses along a curve, with more points where the loss is highest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from curvwatch.landscape.surface import progress_bar

# a further point keeps this part of its interval away from those that are there
_APART = 0.05
# in t; further points would differ by rounding
_FINEST = 1e-6


def profile(
    loss: Callable[[float], float], grid: Iterable[float], *, refine: int, show: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Losses on `grid`, next to its ends, and at `refine` further points around the highest.

    Each further point goes where a parabola through three neighbours says that the loss is highest
    (successive parabolic interpolation), so a hill that the grid has seen at all is found to its top. A
    hill that lies between two neighbours of the grid is not seen. Where a loss is not finite there is
    no top to refine.

    Args:
        loss: at t.
        grid: values of t, two at least.
        refine: how many further points, at most.
        show: whether there is a progress bar.

    Returns:
        t, rising, and the losses, both of shape (n,), float64.
    """
    points = sorted(set(grid))
    # the grid alone would miss a hill right next to an end
    points += [(points[0] + points[1]) / 2, (points[-2] + points[-1]) / 2]
    points = sorted(set(points))
    taken = progress_bar(points, "losses along the path", progress=show)
    values = {t: float(loss(t)) for t in taken}
    for i in range(refine):
        at = sorted(values)
        # first every hill a little: a narrow one may be higher than it looks
        t = next_point(at, [values[t] for t in at], widest=i < refine / 2)
        if t is None:
            break
        values[t] = float(loss(t))
    t_sorted = np.array(sorted(values))
    return t_sorted, np.array([values[t] for t in t_sorted])


def next_point(t: Sequence[float], losses: Sequence[float], *, widest: bool = False) -> float | None:
    """Where the loss may be higher than anywhere yet; None where no further point would help.

    Args:
        t: rising.
        losses: at `t`.
        widest: refine the top whose neighbours are farthest apart, not the one that seems highest.
    """
    if not all(map(math.isfinite, losses)):
        return None
    tops: list[tuple[float, float, float]] = []
    for i in range(1, len(t) - 1):
        width = t[i + 1] - t[i - 1]
        if losses[i] >= max(losses[i - 1], losses[i + 1]) and width > _FINEST:
            height, at = _vertex(t[i - 1 : i + 2], losses[i - 1 : i + 2])
            tops.append((round(width, 9) if widest else 0.0, height, at))
    return max(tops)[2] if tops else None


def _vertex(t: Sequence[float], losses: Sequence[float]) -> tuple[float, float]:
    """The height of the parabola through three points, the middle one highest, and where its top is."""
    left, middle, right = t
    # slopes on either side: up to the middle, down from it
    up = (losses[1] - losses[0]) / (middle - left)
    down = (losses[2] - losses[1]) / (right - middle)
    bend = (down - up) / (right - left)
    if bend == 0:  # three equal losses
        return losses[1], _middle_of_the_wider(t)
    slope = up + bend * (middle - left)
    at = middle - slope / (2 * bend)
    height = losses[1] - slope**2 / (4 * bend)
    side = (left, middle) if at < middle else (middle, right)
    apart = _APART * (side[1] - side[0])
    if abs(at - middle) < apart or not side[0] + apart < at < side[1] - apart:
        at = _middle_of_the_wider(t)
    return height, at


def _middle_of_the_wider(t: Sequence[float]) -> float:
    left, middle, right = t
    return (left + middle) / 2 if middle - left > right - middle else (middle + right) / 2
