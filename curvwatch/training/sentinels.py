"""What training has anyway, watched at every step: where it begins to move, readings come closer."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from statistics import median
from typing import Any

import torch
from torch import Tensor

# losses that the running median is of, and those that it needs
_WINDOW, _FEWEST = 50, 10
# the losses at the start of a run, and those after which the last ones are compared with them
_START, _COMPARED_AFTER = 10, 60
# what counts as moving: times the running median of the loss, times the largest recent learning rate
MOVING_LOSS, MOVING_RATE = 1.5, 2.0
# from so many times the median on, alert rules see the loss
REPORTED_LOSS = 2.0
# steps for which readings are pulled close
PULLED_STEPS = 10

LOSS_OVER_MEDIAN = "step/loss_over_median"
LOSS_OVER_START = "step/loss_over_start"
# of the weights' tensors, the share whose gradient is 0 in each entry, at the steps that are read
SILENT_SHARE = "step/silent_share"
WATCHED = (LOSS_OVER_MEDIAN, LOSS_OVER_START, SILENT_SHARE)


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
        self._seen = 0
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
        """What alert rules may watch: the ratio while it is high, and at each reading the progress."""
        values = {}
        if self.loss_over_median is not None and (with_reading or self.has_news):
            values[LOSS_OVER_MEDIAN] = self.loss_over_median
        if with_reading and self._seen >= _COMPARED_AFTER and (start := self._start) > 0:
            values[LOSS_OVER_START] = self._median / start
        return values

    @property
    def _is_high(self) -> bool:
        return self.loss_over_median is not None and self.loss_over_median > REPORTED_LOSS

    @property
    def _start(self) -> float:
        """The loss that the run began with: of the very first step, where the next ones threw it up."""
        return min(self._first[0], median(self._first))

    @property
    def _median(self) -> float:
        n = len(self._sorted)
        return (self._sorted[(n - 1) // 2] + self._sorted[n // 2]) / 2

    def _see_loss(self, loss: float) -> None:
        self.loss_over_median = None
        if not math.isfinite(loss):
            return
        if len(self._sorted) >= _FEWEST and (middle := self._median) > 0:
            self.loss_over_median = loss / middle
        if len(self._losses) == _WINDOW:
            del self._sorted[bisect_left(self._sorted, self._losses[0])]
        self._losses.append(loss)
        insort(self._sorted, loss)
        self._seen += 1
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
            "seen": self._seen,
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
        self._first, self._seen = list(state["first"]), int(state["seen"])
        self._rate, age, now, before = state["rates"]
        self._rate_age, self._highest_rates = int(age), (now, before)
        self.loss_over_median, self._left = state["ratio"], int(state["left"])


def silent_share(gradients: Iterable[Tensor]) -> float:
    """The share of `gradients` that are 0 in each entry; nan where there are none."""
    known = [g for g in gradients if g.numel()]
    if not known:
        return math.nan
    norms = torch._foreach_norm(known, ord=math.inf)
    return float(torch.stack([n.to(norms[0].device) == 0 for n in norms]).float().mean())
