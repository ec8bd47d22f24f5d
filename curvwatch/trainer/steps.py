"""The real optimizer steps: weights before and after, and what the step was made with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from curvwatch.stability import StabilityLaw, stability_law


@dataclass(frozen=True)
class Settings:
    """What an optimizer makes a step with.

    Attributes:
        params: those that it trains.
        law: its law of stability for them, with P of the last step.
        rates: the learning rate of each of `params`.
        group_rates: the learning rate of each group.
    """

    params: tuple[Tensor, ...]
    law: StabilityLaw
    rates: tuple[float, ...]
    group_rates: tuple[float, ...]

    @classmethod
    def of(cls, optimizer: Optimizer, *, gradient_scale: float | None = 1.0) -> Settings:
        """The present ones; `gradient_scale` is what clipping left of the gradient, None by value."""
        rates = {
            id(p): float(group.get("lr", math.nan))
            for group in optimizer.param_groups
            for p in group["params"]
        }
        params = trained(optimizer)
        return cls(
            params=tuple(params),
            law=stability_law(optimizer, params, gradient_scale=gradient_scale),
            rates=tuple(rates[id(p)] for p in params),
            group_rates=tuple(float(g.get("lr", math.nan)) for g in optimizer.param_groups),
        )


@dataclass(frozen=True)
class FinishedStep:
    """One step that an optimizer took.

    Attributes:
        before: from `id(parameter)` to its value before the step, all optimizers' parameters.
        after: the same for the parameters of this optimizer, after the step.
        settings: what it was made with: a scheduler moves them right after it.
    """

    before: dict[int, Tensor]
    after: dict[int, Tensor]
    settings: Settings


class StepWatch:
    """Keeps the weights before and after the next step of each optimizer, while armed.

    torch's own hooks on `optimizer.step` see each step as it is taken: after accumulation, once for
    LBFGS, under manual optimization, and not when a GradScaler skips it.

    Args:
        optimizers: to watch.
        clips: "norm" or "value" if gradients are clipped, else None.
    """

    def __init__(self, optimizers: Sequence[Optimizer], *, clips: str | None = None) -> None:
        self.optimizers = list(optimizers)
        self.finished: dict[int, FinishedStep] = {}
        self._clips = clips
        self._armed = False
        self._before: dict[int, dict[int, Tensor]] = {}
        self._first: dict[int, bool] = {}
        self._norms: dict[int, float] = {}
        self._handles: list[RemovableHandle] = []
        for index, optimizer in enumerate(self.optimizers):
            self._handles += [
                optimizer.register_step_pre_hook(self._keep_weights(index)),
                optimizer.register_step_post_hook(self._keep_update(index)),
            ]

    def arm(self) -> None:
        """Keep the first step of each optimizer from now on."""
        self.disarm()
        self._armed = True

    def disarm(self) -> dict[int, FinishedStep]:
        """Stop, forget, and give what was finished, by optimizer index."""
        finished, self.finished = self.finished, {}
        self._before, self._norms = {}, {}
        self._armed = False
        return finished

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.disarm()

    def see_gradient(self, optimizer: Optimizer) -> None:
        """Look at the gradient of the coming step before it is clipped."""
        for index, watched in enumerate(self.optimizers):
            if self._armed and self._clips == "norm" and watched is optimizer:
                self._norms[index] = _gradient_norm(optimizer)

    def _keep_weights(self, index: int) -> Callable[..., None]:
        def keep(*_: object) -> None:
            if self._armed and index not in self.finished:
                self._before[index] = _copies(self.optimizers)
                self._first[index] = not self.optimizers[index].state

        return keep

    def _keep_update(self, index: int) -> Callable[..., None]:
        def keep(*_: object) -> None:
            before = self._before.pop(index, None)
            if before is None:
                return
            optimizer = self.optimizers[index]
            scale = None if self._clips == "value" else self._left_by_clipping(index)
            settings = Settings.of(optimizer, gradient_scale=scale)
            if self._first[index] or _any_new(optimizer):
                settings = replace(settings, law=_without_single_gradient(settings.law))
            self.finished[index] = FinishedStep(before, _copies([optimizer]), settings)

        return keep

    def _left_by_clipping(self, index: int) -> float:
        norm = self._norms.pop(index, 0.0)
        if not 0.0 < norm < math.inf:
            return 1.0
        return min(1.0, _gradient_norm(self.optimizers[index]) / norm)


def _without_single_gradient(law: StabilityLaw) -> StabilityLaw:
    if law.edge is None or not law.adaptive:
        return law
    return replace(
        law,
        edge=None,
        reason="the preconditioner of a first step is made of one gradient alone, and the law holds "
        "where it changes slowly",
    )


def _any_new(optimizer: Optimizer) -> bool:
    """Whether a parameter has just made its first step; Adagrad has a state before it."""
    return any(float(state["step"]) == 1.0 for state in optimizer.state.values() if "step" in state)


def trained(optimizer: Optimizer) -> list[Tensor]:
    """The parameters of `optimizer` with requires_grad, each once, in the order of its groups."""
    unique = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    return [p for p in unique.values() if p.requires_grad]


def _gradient_norm(optimizer: Optimizer) -> float:
    gradients = [p.grad for p in trained(optimizer) if p.grad is not None]
    if not gradients:
        return 0.0
    device = gradients[0].device
    norms = [torch.linalg.vector_norm(g).double().to(device) for g in gradients]
    return float(torch.stack(norms).norm())


def _copies(optimizers: Sequence[Optimizer]) -> dict[int, Tensor]:
    weights = {id(p): p for o in optimizers for g in o.param_groups for p in g["params"]}
    return {key: p.detach().clone() for key, p in weights.items()}
