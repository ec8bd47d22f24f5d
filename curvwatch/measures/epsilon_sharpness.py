"""How much the loss rises in a box around the weights, and by one step up within a ball."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from curvwatch.checks import check_int
from curvwatch.measures.base import Landscape, LandscapeMeasure, Reading
from curvwatch.measures.matrices import not_finite, vector_norm

# a rise that is smaller, relative to the loss, is rounding
_ROUNDED = 4.0


class EpsilonSharpness(LandscapeMeasure):
    """Keskar's sharpness in a box, and SAM's in a ball, of the loss f on the probe.

    The box is abs(z_i) <= epsilon (abs(w_i) + 1) for each weight w_i; g is the gradient of f at w.

    | metric | value |
    |---|---|
    | `curvature/epsilon_sharpness` | 100 (max f(w + z) - f(w)) / (1 + f(w)), over z in the box: a \
lower bound of it |
    | `curvature/epsilon_sharpness_gain` | what the last step up added to it, relative: near 0 the \
search is at its end |
    | `curvature/sam_sharpness` | f(w + rho g / abs(g)) - f(w) |

    The maximum is searched for in `steps` steps of projected gradient ascent, along the signs of the
    gradient (the steepest way in a box) and cut to it. The first one reaches a corner; one that does
    not raise f is taken back, and the next is half as long. So the value never exceeds the true one,
    and grows with `steps`. Where the gradient is zero it sets out along random signs. Keskar et al. use
    ten iterations of L-BFGS-B instead, and report random subspaces beside the full space that is meant
    here. A rise that is rounding is doubtful.

    SAM's step is the maximum in the ball to first order: f may rise more elsewhere in it.

    Price: `steps` + 2 gradients, one less where another measure of the reading has made one.

    Args:
        epsilon: size of the box; Keskar et al. use 1e-3 and 5e-4.
        steps: of the search.
        rho: radius of the ball; Foret et al. use 0.05 most.
        every_n_steps: cadence of this measure alone; None: the monitor's.

    Sources: Keskar et al. 2017, "On large-batch training for deep learning: generalization gap and
    sharp minima", metric 2.1; Foret et al. 2021, "Sharpness-aware minimization for efficiently
    improving generalization", equation 2.
    """

    name: str = "epsilon_sharpness"
    metrics: tuple[str, ...] = (
        "curvature/epsilon_sharpness",
        "curvature/epsilon_sharpness_gain",
        "curvature/sam_sharpness",
    )

    def __init__(
        self,
        *,
        epsilon: float = 1e-3,
        steps: int = 10,
        rho: float = 0.05,
        every_n_steps: int | None = None,
    ) -> None:
        super().__init__(every_n_steps=every_n_steps)
        for key, value in (("epsilon", epsilon), ("rho", rho)):
            if isinstance(value, (str, bool)) or not 0 < value < math.inf:
                raise ValueError(f"{key}={value!r}: a positive number is needed")
        check_int("steps", steps, at_least=1, what="at least one step")
        self.epsilon = epsilon
        self.steps = steps
        self.rho = rho

    def read(self, at: Landscape) -> Reading:
        """Read both; nan with a note where a value is not available."""
        values = dict.fromkeys(self.metrics, math.nan)
        objective, layout = at.objective, at.objective.layout
        if objective.known_loss is None or objective.known_gradient is None:
            objective.gradient()
        start, g = objective.known_loss, objective.known_gradient
        assert start is not None
        assert g is not None
        length = vector_norm(layout, g)
        if not (math.isfinite(start) and math.isfinite(length)):
            return Reading(values, (not_finite(start),))
        notes = []
        if length == 0.0:
            notes.append("the gradient is zero, so SAM has no step")
        else:
            values["curvature/sam_sharpness"] = objective.loss(g * (self.rho / length)) - start
        if start <= -1.0:
            notes.append(f"the loss is {start:.6g}: epsilon sharpness is meant for positive losses")
            return Reading(values, tuple(notes))
        if length == 0.0:
            g = torch.empty_like(g, device="cpu").bernoulli_(generator=at.generator)
            g = g.mul_(2.0).sub_(1.0).to(layout.device)
        rise, gain, overflowed = self._search(at, start, g)
        values["curvature/epsilon_sharpness"] = 100 * rise / (1 + start)
        values["curvature/epsilon_sharpness_gain"] = gain / rise if rise > 0 else 0.0
        if overflowed:
            notes.append("the loss is not finite at some points of the box, which are left out")
        eps = max(torch.finfo(dtype).eps for dtype in layout.dtypes)
        rises = {self.metrics[0]: rise, self.metrics[2]: values["curvature/sam_sharpness"]}
        rounded = {k: r for k, r in rises.items() if abs(r) <= _ROUNDED * eps * abs(start)}
        return Reading(
            values,
            tuple(notes),
            doubtful=tuple(rounded),
            doubts=tuple(
                f"{k} is not to be trusted: the loss {start:.6g} rises by only {r:.2g}, as by rounding"
                for k, r in rounded.items()
            ),
        )

    def _search(self, at: Landscape, start: float, g: Tensor) -> tuple[float, float, bool]:
        """The largest rise that was found, what the last step up added, and whether f overflowed."""
        objective = at.objective
        box = objective.weights.abs_().add_(1.0).mul_(self.epsilon)
        z, best, gain, overflowed = torch.zeros_like(box), start, 0.0, False
        reach = 2.0  # of a step, in half widths of the box: from anywhere to the corner
        for _ in range(self.steps):
            tried = torch.maximum(torch.minimum(z + reach * box * g.sign(), box), -box)
            if not objective.processes.true_on_any(not torch.equal(tried, z)):
                break  # a corner that the gradient points to
            value, g_there = objective.gradient(tried)
            if math.isfinite(value) and value > best:
                z, g, gain, best = tried, g_there, value - best, value
            else:
                overflowed |= not math.isfinite(value)
                reach /= 2
        return best - start, gain, overflowed
