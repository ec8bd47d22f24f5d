"""The learning rate at which the step raises the loss, by forward passes alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from curvwatch.checks import check_fraction, check_int
from curvwatch.measures.base import Landscape, LandscapeMeasure, Reading

# a rise over the bracket that is smaller, relative to the loss, is rounding
_ROUNDED = 4.0
_FLAT = (
    "curvature/critical_sharpness = {:.4g} is not to be trusted: over its bracket the loss changes by "
    "only {:.2g}, which is rounding"
)


class CriticalSharpness(LandscapeMeasure):
    """Critical sharpness 2 / eta_c, eta_c the learning rate at which the optimizer's step is too long.

    With d the step that was taken at learning rate lr, and f the loss on the probe, eta_c is where
    f(w + eta d / lr) comes to be above f(w).

    | metric | value |
    |---|---|
    | `curvature/critical_sharpness` | 2 / eta_c; of a quadratic and the gradient g: g'Hg / abs(g)^2 |
    | `curvature/critical_sharpness_error` | half the bracket of eta_c, relative to eta_c: bounds the \
relative error |
    | `curvature/critical_ratio` | lr / eta_c; from 1 on the step itself raises the loss. Its relative \
error is the same |
    | `curvature/critical_forwards` | forward passes that it took |

    eta is doubled or halved from the last eta_c (at first from lr) until the loss rises on one side and
    not on the other, then the bracket is halved until it is `tolerance` wide. A loss that is not finite
    counts as a rise. Where the loss rises and falls several times, eta_c is one crossing, perhaps not
    the smallest. There is none where the step goes uphill on the probe (seen at once where another
    measure of the reading has computed the gradient), or no bracket within `max_forwards`: a note says
    which. With several learning rates eta is the largest of them, and the others go along.

    The step is that of its own batch, f the probe's: `probe="current"` makes them the same. With the
    first batches as probe a step is uphill more often.

    Price: 6 or 7 forward passes, in the first reading some more, for a step that goes uphill
    `max_forwards`; no gradient and no product.

    Args:
        tolerance: width of the last bracket, relative to its upper end.
        max_forwards: the most forward passes of a reading, at least 3.
        every_n_steps: cadence of this measure alone; None: the monitor's.

    Source: Kalra et al. 2026, "A scalable measure of loss landscape curvature for analyzing the
    training dynamics of LLMs".
    """

    name: str = "critical_sharpness"
    metrics: tuple[str, ...] = (
        "curvature/critical_sharpness",
        "curvature/critical_sharpness_error",
        "curvature/critical_ratio",
        "curvature/critical_forwards",
    )

    def __init__(
        self, *, tolerance: float = 2**-4, max_forwards: int = 20, every_n_steps: int | None = None
    ) -> None:
        super().__init__(every_n_steps=every_n_steps)
        check_fraction("tolerance", tolerance, what="a relative width between 0 and 1")
        check_int(
            "max_forwards", max_forwards, at_least=3, what="a number of forward passes, 3 or more,"
        )
        self.tolerance = tolerance
        self.max_forwards = max_forwards

    def read(self, at: Landscape) -> Reading:
        """Read eta_c; nan with a note where there is none."""
        values = dict.fromkeys(self.metrics, math.nan)
        values["curvature/critical_forwards"] = 0.0
        if at.update is None:
            return Reading(values, ("no step was recorded, so there is no critical learning rate",))
        objective, d = at.objective, at.update()
        length = math.sqrt(objective.layout.dot(d, d))
        if not 0.0 < length < math.inf:
            what = "did not move the weights" if length == 0.0 else "left weights that are not finite"
            return Reading(values, (f"the step {what}",))
        before = objective.counts.forwards
        start = objective.known_loss
        if start is None:
            start = objective.loss()
        rate = max(at.learning_rates)
        scale = rate if rate > 0 else 1.0  # of eta in memory; not every optimizer has a rate to read

        search = _Search(lambda s: objective.loss(s * d), start)
        note = None
        if not math.isfinite(start):
            note = f"on the probe the loss is {start}"
        elif objective.known_gradient is not None and (
            (slope := objective.layout.dot(objective.known_gradient, d)) >= 0
        ):
            note = (
                f"the step goes uphill on the probe (g . d = {slope:.3g}), so it has no critical length"
            )
        else:
            spent = objective.counts.forwards - before
            first = at.memory.get("critical", scale) / scale
            note = search.bracket(first, self.max_forwards - spent)
            while (
                note is None
                and search.width > self.tolerance
                and search.forwards + spent < self.max_forwards
            ):
                search.halve()
        values["curvature/critical_forwards"] = float(objective.counts.forwards - before)
        if note is not None:
            return Reading(values, (note,))
        critical = (search.low + search.high) / 2  # as a multiple of the step
        at.memory["critical"] = critical * scale
        values["curvature/critical_ratio"] = 1 / critical
        values["curvature/critical_sharpness_error"] = (search.high - search.low) / (2 * critical)
        notes: tuple[str, ...] = ()
        if rate > 0:
            values["curvature/critical_sharpness"] = 2 / (critical * rate)
        else:
            notes = (f"{at.law.optimizer} has no learning rate to read",)
        rise = search.rise
        eps = max(torch.finfo(dtype).eps for dtype in objective.layout.dtypes)
        if math.isfinite(rise) and abs(rise) <= _ROUNDED * eps * abs(start):
            doubt = _FLAT.format(values["curvature/critical_sharpness"], rise)
            return Reading(values, notes, doubtful=self.metrics[:3], doubts=(doubt,))
        return Reading(values, notes)


class _Search:
    """Where `loss(s)` comes to be above `start`, for s > 0.

    Attributes:
        low: the largest s that is known to raise nothing, once there is a bracket.
        high: the smallest s above it that does.
        forwards: losses that were computed.
    """

    def __init__(self, loss: Callable[[float], float], start: float) -> None:
        self._loss = loss
        self._start = start
        self._seen: dict[float, float] = {}
        self.low, self.high = 0.0, math.inf

    @property
    def forwards(self) -> int:
        return len(self._seen)

    @property
    def width(self) -> float:
        """Of the bracket, relative to its upper end."""
        return (self.high - self.low) / self.high

    @property
    def rise(self) -> float:
        """Of the loss, over the bracket."""
        return self._seen[self.high] - self._seen[self.low]

    def bracket(self, first: float, most: int) -> str | None:
        """Double or halve s from `first`, in `most` losses; None, or why there is no bracket."""
        s = first
        factor = 0.5 if self._rises(s) else 2.0
        while self.low == 0.0 or self.high == math.inf:
            if self.forwards >= most or not 0.0 < s * factor < math.inf:
                if factor < 1:
                    return (
                        f"the step raises the loss on the probe down to {s:.2g} of its length: it goes "
                        "uphill, or its curvature is too large to measure"
                    )
                return f"no rise of the loss was found along the step, up to {s:.2g} times its length"
            s *= factor
            self._rises(s)
        return None

    def halve(self) -> None:
        """Evaluate the middle of the bracket."""
        self._rises((self.low + self.high) / 2)

    def _rises(self, s: float) -> bool:
        """Whether the loss at s is above the start, or not finite; keeps the bracket."""
        value = self._seen[s] = self._loss(s)
        rises = not value <= self._start
        if rises:
            self.high = s
        else:
            self.low = s
        return rises
