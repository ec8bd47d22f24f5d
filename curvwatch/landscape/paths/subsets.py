"""Surfaces of some of the batches of a surface."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from curvwatch.errors import CurvwatchError
from curvwatch.landscape.batch_norm import Recalibrated
from curvwatch.landscape.module_surface import ModuleSurface
from curvwatch.landscape.surface import Surface


class Drawn:
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
        CurvwatchError: the surface has no batches that could be told apart.
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
