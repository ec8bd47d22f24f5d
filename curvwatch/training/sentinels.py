"""What training has anyway, watched at every step: where it begins to move, readings come closer."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from statistics import median
from typing import Any

# losses that the running median is of, and those that it needs
_WINDOW, _FEWEST = 50, 10
# the losses at the start of a run
_START = 10
# a loss so many times that of the start has thrown the run
THROWN = 1.5
# the middle half of the last losses of a plateau is within this part of their median
_FLAT = 0.1
# what counts as moving: times the running median of the loss, times the largest recent learning rate
MOVING_LOSS, MOVING_RATE = 1.5, 2.0
# from so many times the median on, alert rules see the loss
REPORTED_LOSS = 2.0
# steps for which readings are pulled close
PULLED_STEPS = 10

LOSS_OVER_MEDIAN = "step/loss_over_median"
PLATEAU_OVER_START = "step/plateau_over_start"
WATCHED = (LOSS_OVER_MEDIAN, PLATEAU_OVER_START)


class Sentinels:
    """The loss and the learning rate of each step, at the price of a few comparisons.

    Attributes:
        loss_over_median: the last loss over the median of the 50 before; None: unknown.
    """

    def __init__(self) -> None:
        self.loss_over_median: float | None = None
        self._losses: deque[float] = deque(maxlen=_WINDOW)
        self._sorted: list[float] = []
        self._first: list[float] = []
        self._highest, self._since_highest = 0.0, 0
        self._rate, self._rate_age = 0.0, 0
        self._highest_rates = (0.0, 0.0)  # of the present 50 steps and of those before
        self._left = 0  # steps for which readings are pulled
        self._was_high = False

    @property
    def pulls(self) -> bool:
        """Whether readings are to come close now."""
        return self._left > 0

    @property
    def has_news(self) -> bool:
        """Whether alert rules are to see the loss of this step, or that it fell again."""
        return self._was_high or self._is_high

    def see(self, loss: float | None, rate: float) -> bool:
        """A step was made; whether there is something to do: a value for alerts, or readings to pull.

        Args:
            loss: of its batch; None where reading it would make the host wait.
            rate: its learning rate.
        """
        self._was_high = self._is_high
        highest = self._sorted[-1] if self._sorted else math.inf
        if loss is not None:
            self._see_loss(loss)
        rate_moved = self._rate_moved(rate)
        # small losses scatter by more than that: it is to be the largest of late, too
        ratio = self.loss_over_median
        loss_moved = ratio is not None and ratio > MOVING_LOSS and loss is not None and loss > highest
        if loss_moved or rate_moved:
            self._left = PULLED_STEPS
        elif self._left:
            self._left -= 1
        return self._left > 0 or self.has_news

    def values(self, *, with_reading: bool) -> dict[str, float]:
        """What alert rules may watch: the ratio while it is high, and at each reading a plateau."""
        values = {}
        if self.loss_over_median is not None and (with_reading or self.has_news):
            values[LOSS_OVER_MEDIAN] = self.loss_over_median
        if with_reading and (plateau := self._plateau_over_start) is not None:
            values[PLATEAU_OVER_START] = plateau
        return values

    @property
    def _is_high(self) -> bool:
        return self.loss_over_median is not None and self.loss_over_median > REPORTED_LOSS

    @property
    def _plateau_over_start(self) -> float | None:
        """The last 50 losses over those of the start, once a run that was thrown is calm again."""
        if len(self._losses) < _WINDOW or self._since_highest < _WINDOW:
            return None
        start, middle = median(self._first), self._median
        if not (start > 0 and self._highest > THROWN * start):
            return None
        quarter = _WINDOW // 4
        spread = self._sorted[-1 - quarter] - self._sorted[quarter]
        return middle / start if spread <= _FLAT * middle else math.nan

    @property
    def _median(self) -> float:
        n = len(self._sorted)
        return (self._sorted[(n - 1) // 2] + self._sorted[n // 2]) / 2

    def _see_loss(self, loss: float) -> None:
        self.loss_over_median = None
        self._since_highest += 1
        if loss >= self._highest or loss != loss:
            self._highest, self._since_highest = (loss if loss == loss else math.inf), 0
        if not math.isfinite(loss):
            return
        if len(self._sorted) >= _FEWEST and (middle := self._median) > 0:
            self.loss_over_median = loss / middle
        if len(self._losses) == _WINDOW:
            del self._sorted[bisect_left(self._sorted, self._losses[0])]
        self._losses.append(loss)
        insort(self._sorted, loss)
        if len(self._first) < _START:
            self._first.append(loss)

    def _rate_moved(self, rate: float) -> bool:
        if not rate > 0:  # none, or a warmup that begins at nothing
            return False
        self._rate_age += 1
        now, before = self._highest_rates
        if rate == self._rate and self._rate_age < _WINDOW:
            return False
        highest = max(now, before)
        self._rate = rate
        now = max(now, rate)
        if self._rate_age >= _WINDOW:
            now, before, self._rate_age = rate, now, 0
        self._highest_rates = now, before
        return 0 < highest < rate / MOVING_RATE

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "losses": list(self._losses),
            "first": list(self._first),
            "highest": [self._highest, self._since_highest],
            "rates": [self._rate, self._rate_age, *self._highest_rates],
            "ratio": self.loss_over_median,
            "left": self._left,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        if not state:
            return
        self._losses = deque(state["losses"], maxlen=_WINDOW)
        self._sorted = sorted(self._losses)
        self._first = list(state["first"])
        self._highest, self._since_highest = state["highest"][0], int(state["highest"][1])
        self._rate, age, now, before = state["rates"]
        self._rate_age, self._highest_rates = int(age), (now, before)
        self.loss_over_median, self._left = state["ratio"], int(state["left"])
