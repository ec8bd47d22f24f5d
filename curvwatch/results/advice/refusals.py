"""When the readings of a run allow no advice, and why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from curvwatch.results.advice.rates import Curves, LandscapeSeries, Steps

LEAST = 8  # readings of the landscape
# a relative fall of the loss below which the readings do not show the landscape of later training:
# in any case, and where steps go along negative curvature or are not read
_FELL, _FELL_SURELY = 0.01, 0.1
# a run is stuck after overshooting if it overshot before, its loss changes by less than this share of
# its start in the settled half and ends above this share of it, and the landscape allows so many
# times the learning rate that it allowed at its sharpest
_STILL, _HIGH, _FLATTER = 0.01, 0.5, 10.0
# from this share of overshooting steps on a larger learning rate does not help
_OVERSHOOT = 0.1


class NoAdviceError(Exception):
    """The readings do not allow advice; its text is the reason."""


def check_count(used: LandscapeSeries, notes: Sequence[str]) -> None:
    """Raise unless there are enough readings."""
    if len(used) >= LEAST:
        return
    if used.missing == used.read > 0:
        why = Counter(notes).most_common(1)
        raise NoAdviceError(
            "no reading has a stability ratio: the optimizer has no stability law, or readings failed"
            + (f": {why[0][0]}" if why else "")
        )
    if used.refuted > len(used):
        raise NoAdviceError(
            f"{used.refuted} of {used.read} readings are over the edge while no step overshot: the "
            "probe is sharper than the training loss (enlarge it: probe_batches=...), or the optimizer "
            "has received too few gradients yet"
        )
    left_out = (
        *((used.missing, "have no stability ratio"), (used.doubtful, "are doubtful")),
        (used.refuted, "contradict the steps"),
        (used.lowered, "came after the learning rate was halved"),
    )
    reasons = "".join(f", {count} {text}" for count, text in left_out if count)
    raise NoAdviceError(
        f"{len(used)} of {used.read} readings of the landscape can be used, {LEAST} are needed{reasons}"
    )


def check_loss(
    curves: Curves, suffix: str, used: LandscapeSeries, steps: Steps, *, settled: int, of_step: float
) -> tuple[float, float]:
    """First and last loss on the probe, nan where it was not read.

    Args:
        curves: of the run, by metric.
        suffix: of the optimizer's metrics.
        used: its readings of the landscape.
        steps: its readings of steps.
        settled: of `used`, the first that is settled.
        of_step: the median ratio of the settled steps; nan: they were not read.

    Raises:
        NoAdviceError: nothing was learned, or no longer is.
    """
    name = f"curvature/loss{suffix}"
    if name not in curves:
        return math.nan, math.nan
    values = curves[name].values
    finite = values[np.isfinite(values)]
    if not np.isfinite(values[-3:]).all() or not len(finite):
        raise NoAdviceError("the run diverged: its last losses are not finite")
    first, last = float(finite[0]), float(np.median(values[-3:]))
    fell, chi = first - last, float(np.median(used.ratios[settled:]))
    if fell < 0 and (chi > 1.0 or of_step > 1.0):
        raise NoAdviceError(
            f"the run diverged: the loss went from {first:.3g} to {last:.3g}, with a stability ratio "
            f"of {chi:.2g} in the landscape and {of_step:.2g} of the steps"
        )
    if fell < (_FELL if of_step > 0 else _FELL_SURELY) * abs(first):
        overshot = _overshot(used.ratios, steps.ratios)
        if fell >= 0 and not overshot:
            moved, cure = "hardly fallen", "train for longer, or with a larger learning rate"
        elif fell >= 0:
            moved, cure = "hardly fallen", "steps overshot, so restart with a smaller learning rate"
        else:
            moved, cure = "risen", "train for longer, or with a smaller learning rate"
        raise NoAdviceError(
            f"the loss has {moved} ({first:.3g} to {last:.3g}), so the readings do not show the "
            f"landscape of later training: {cure}"
        )
    since = curves[name].steps >= used.steps[settled]
    begin, end = (np.median(part) for part in np.array_split(values[since], 2))
    supported, least = float(np.median(used.at_edge[settled:])), float(used.at_edge.min())
    still = last > _HIGH * first and abs(begin - end) < _STILL * abs(first)
    before = steps.ratios[steps.steps < used.steps[settled]]
    thrown = supported > _FLATTER * least and _overshot(used.ratios[:settled], before)
    if still and thrown:
        raise NoAdviceError(
            f"the loss is stuck at {last:.3g} (it began at {first:.3g}), where the landscape is "
            f"{supported / least:.0f} times flatter than at its sharpest: steps that overshot may have "
            "moved the run there and left units dead; restart with a smaller learning rate"
        )
    return first, last


def _overshot(of_landscape: np.ndarray, of_steps: np.ndarray) -> bool:
    """Whether the landscape was over its edge, or a good part of the steps were."""
    over = of_landscape > 1.0
    return bool(over.any() or (len(of_steps) and np.mean(of_steps > 1.0) > _OVERSHOOT))
