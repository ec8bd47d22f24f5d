"""Where the bulk of a spectrum begins below its outliers: the scree test, by two lines."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# fewer eigenvalues are no scree to fit a line to
FEWEST_VALUES = 8
# of the bulk's line: fewer points than this are no line
_TAIL = 4
# 95 % quantile of chi squared with one degree of freedom
_CHI_SQUARED = 3.841
# residuals of a fit of logarithms under this are rounding: an exact fit is not infinitely better
_EXACT = 1e-6
# the largest must stand so far above the bulk's line: a bulk without outliers bends at its edge, too
_RISE = 1.25


@dataclass(frozen=True)
class Outliers:
    """How many of the leading eigenvalues stand above the bulk.

    Attributes:
        count: of outliers; 0 where one line fits all as well.
        error: how far the count may be off: that of other breaks which fit nearly as well (likelihood
            ratio, 95 %), or of a test of three quarters of the eigenvalues.
    """

    count: int
    error: float


def count_outliers(values: np.ndarray, noise: np.ndarray | float = 0.0) -> Outliers | None:
    """Outliers among `values`, the leading eigenvalues of a spectrum, by the scree test.

    Over their ranks the logarithms of the eigenvalues of a bulk lie near a line, and outliers rise from
    it (Cattell 1966). The break is where two lines, of the outliers and of the bulk, together leave the
    smallest squares (Zoski & Jurs 1996); there is none unless two lines are better than one by the
    Bayesian information criterion, and the largest value is a quarter above the line of the bulk. Where
    the values drop to zero, to `noise`, all before are outliers of a bulk at zero.

    Args:
        values: (k,) falling, `k` some three times the count that is expected.
        noise: (k,) or one number: values up to it are zero.

    Returns:
        None where there are too few values, or none above zero, to distinguish a bulk from them.

    Sources: Cattell 1966, "The scree test for the number of factors"; Zoski & Jurs 1996, "An objective
    counterpart to the visual scree test for factor analysis: the standard error scree".
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < FEWEST_VALUES:
        return None
    clear = values > np.asarray(noise)
    positive = len(values) if clear.all() else int(np.argmin(clear))
    if positive < len(values):
        return Outliers(positive, 0.0) if positive else None
    logs = np.log(values)
    count, error = _break(logs)
    fewer = max(FEWEST_VALUES, 3 * len(logs) // 4)
    return Outliers(count, max(error, abs(count - _break(logs[:fewer])[0])))


def _break(logs: np.ndarray) -> tuple[int, float]:
    """How many of `logs` lie before the break, and how far other breaks are that fit nearly as well."""
    n = len(logs)
    breaks = np.arange(1, n - _TAIL + 1)
    squares = np.array([_off_line(logs[:k]) + _off_line(logs[k:]) for k in breaks])
    squares += n * _EXACT**2
    best = int(squares.argmin())
    # two lines have three numbers more than one: a slope, a height and the break
    one_line = _off_line(logs) + n * _EXACT**2
    if n * math.log(one_line / squares[best]) <= 3 * math.log(n):
        return 0, 0.0
    bulk = np.polyfit(np.arange(breaks[best], n), logs[breaks[best] :], 1)
    if logs[0] - bulk[1] < math.log(_RISE):
        return 0, 0.0
    near = breaks[n * np.log(squares / squares[best]) <= _CHI_SQUARED]
    return int(breaks[best]), float(np.abs(near - breaks[best]).max())


def _off_line(y: np.ndarray) -> float:
    """The sum of squares about a line; about the mean where two points would fix the line."""
    x = np.arange(len(y)) - (len(y) - 1) / 2
    y = y - y.mean()
    slope = (x @ y) / (x @ x) if len(y) > 2 else 0.0
    return float(np.square(y - slope * x).sum())
