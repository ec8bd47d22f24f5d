"""Curves of low loss: the bends of a Bezier curve or a chain, trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import torch

from curvwatch.errors import CurvwatchError
from curvwatch.landscape.batch_norm import Recalibrated
from curvwatch.landscape.module_surface import ModuleSurface
from curvwatch.landscape.paths.curves import Curve
from curvwatch.landscape.surface import Surface


class BatchDraws:
    """Draws the batches of each step of a stochastic optimizer.

    Each batch comes once before any comes again, in a new order each time.

    Args:
        surface: of all batches; not open while steps are made.
        count: how many batches a step has; None, or as many as there are: all of them.
        seed: of the order.

    Attributes:
        gradients: what was spent on parts of the batches, in passes over all of them.
        forwards: likewise.

    Raises:
        CurvwatchError: the surface has no batches to draw from.
    """

    def __init__(self, surface: Surface, count: int | None, *, seed: int) -> None:
        self.gradients = self.forwards = 0.0
        self._surface = surface
        self._total = len(surface.objective.samples) if isinstance(surface, ModuleSurface) else 1
        if count is not None and not isinstance(surface, ModuleSurface):
            raise CurvwatchError(
                f"batches_per_step={count}: a {type(surface).__name__} has no batches "
                "to draw from; leave it out"
            )
        self._count = self._total if count is None else min(count, self._total)
        self._generator = torch.Generator().manual_seed(seed)
        self._left: list[int] = []

    @property
    def draws(self) -> bool:
        """Whether a step has some of the batches, and not all."""
        return self._count < self._total

    def gradient(self, points: list[torch.Tensor]) -> list[tuple[float, torch.Tensor]]:
        """Loss and gradient at each of `points`, on the batches of the next step."""
        surface = self._surface
        if not self.draws or not isinstance(surface, ModuleSurface):
            return [surface.gradient(w) for w in points]
        chosen: list[int] = []
        while len(chosen) < self._count:
            if not self._left:
                self._left = torch.randperm(self._total, generator=self._generator).tolist()
            chosen.append(self._left.pop())
        part, share = of_batches(surface, chosen)
        with part.open():
            made = [part.gradient(w) for w in points]
        self.gradients += share * part.counts.gradients
        self.forwards += share * part.counts.forwards
        return made


def of_batches(surface: ModuleSurface, chosen: list[int]) -> tuple[ModuleSurface, float]:
    """The mean loss over the batches at `chosen`, and their share of all examples."""
    objective = copy.copy(surface.objective)
    samples = [objective.samples[i] for i in chosen]
    share = sum(s.weight for s in samples)
    objective.samples = tuple(replace(s, weight=s.weight / share) for s in samples)
    if isinstance(objective.loss_fn, Recalibrated):  # of all batches
        objective.loss_fn = objective.loss_fn.loss_fn
    return ModuleSurface(objective, recalibrate=surface.recalibrates), share


Optimizer = Literal["adam", "sgd"]
DEFAULT_RATES: dict[Optimizer, float] = {"adam": 0.01, "sgd": 0.1}


def fit_curve(
    drawn: BatchDraws,
    curve: Curve,
    steps: Iterable[int],
    *,
    count: int,
    optimizer: Optimizer,
    learning_rate: float,
    draws: int,
    seed: int,
) -> tuple[Curve, list[float]]:
    """Minimise the mean of the loss over t, uniform in [0, 1], by the bends; the ends stay.

    The loss that Garipov et al. (2018) train a curve by: its gradient by a bend is the mean over t of
    the loss's gradient at phi(t), times what the bend counts there. The learning rate is that of their
    code: constant for half of the steps, then it falls linearly to a hundredth at nine tenths. A step
    in which a loss or its gradient is not finite is left out.

    Args:
        drawn: the loss, on the batches of each step.
        curve: to begin with; it has a bend at least.
        steps: from 0 to `count`, each once: a progress bar may be around it.
        count: how many steps.
        optimizer: "adam", or "sgd" with momentum 0.9.
        learning_rate: the first one.
        draws: how many t a step takes: one, uniform, in each of as many equal parts of [0, 1].
        seed: of t.

    Returns:
        The curve, and the mean loss over the draws of each step; inf where it was left out.

    Raises:
        CurvwatchError: no step could be taken.
    """
    generator = torch.Generator().manual_seed(seed)
    bends = curve.controls[1:-1].clone().requires_grad_()
    curve = replace(curve, controls=curve.controls.clone())
    chosen: torch.optim.Optimizer = (
        torch.optim.Adam([bends], lr=learning_rate)
        if optimizer == "adam"
        else torch.optim.SGD([bends], lr=learning_rate, momentum=0.9)
    )
    history: list[float] = []
    for step in steps:
        at = ((torch.arange(draws) + torch.rand(draws, generator=generator)) / draws).tolist()
        gradient, total = torch.zeros_like(bends), 0.0
        for t, (loss, g) in zip(at, drawn.gradient([curve.at(t) for t in at]), strict=True):
            total += loss / draws
            for row, share in zip(gradient, curve.shares(t)[1:-1], strict=True):
                row.add_(g, alpha=share / draws)
        finite = math.isfinite(total) and bool(gradient.isfinite().all())
        history.append(total if finite else math.inf)
        if finite:
            for group in chosen.param_groups:
                group["lr"] = learning_rate * _decay(step / count)
            bends.grad = gradient
            chosen.step()
            curve.controls[1:-1] = bends.detach()
    if history and not any(map(math.isfinite, history)):
        raise CurvwatchError(
            f"in none of {len(history)} steps were the losses along the curve and their gradients "
            "finite, so it could not be trained: the ends may be too far apart for what lies between"
        )
    return curve, history


def _decay(part: float) -> float:
    """The learning rate after a part of the steps, relative to the first (Garipov's code)."""
    if part <= 0.5:
        return 1.0
    return 1.0 - (part - 0.5) / 0.4 * 0.99 if part <= 0.9 else 0.01
