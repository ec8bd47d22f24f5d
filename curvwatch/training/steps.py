"""The real optimizer steps: weights before and after, and what the step was made with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from curvwatch.errors import ErrorPolicy
from curvwatch.objective.flat_layout import local_dot
from curvwatch.objective.processes import is_sharded, local, summed
from curvwatch.stability import StabilityLaw, stability_law
from curvwatch.training.optimizer_groups import gradient_of, gradient_used, rate_of, trained

# two gradients that differ by less than this, of each parameter's, are one up to a factor: rounding in
# bfloat16 stays under it
_SAME_DIRECTION = 0.01
_TURNED = (
    "the gradient was changed between backward and step, and not by one factor for all weights "
    "(clipped by value, or for some weights alone): no law of stability describes this step; "
    "step/stability_ratio still holds"
)


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
        rates = {id(p): rate_of(group) for group in optimizer.param_groups for p in group["params"]}
        params = trained(optimizer)
        law = stability_law(optimizer, params, gradient_scale=gradient_scale)
        parts = tuple(P if P is None else local(P) for P in law.preconditioner)
        return cls(
            params=tuple(params),
            law=replace(law, preconditioner=parts),
            rates=tuple(rates[id(p)] for p in params),
            group_rates=tuple(map(rate_of, optimizer.param_groups)),
        )


@dataclass(frozen=True)
class FinishedStep:
    """One step that an optimizer took.

    Attributes:
        before: from `id(parameter)` to its value before the step, all optimizers' parameters; of a
            sharded one the part of this process, here and below. These tensors are written over when
            the watch is armed again.
        after: the same for the parameters of this optimizer, after the step.
        gradient: the same of their gradients, before they were clipped; empty where they are not of
            this step (LBFGS looks at several points).
        settings: what it was made with: a scheduler moves them right after it.
        compared: by name the steps that compared optimizers would have made, each by `id(parameter)`.
        used: as `gradient`, after clipping; empty where no measure needs it.
    """

    before: dict[int, Tensor]
    after: dict[int, Tensor]
    gradient: dict[int, Tensor]
    settings: Settings
    compared: dict[str, dict[int, Tensor]] = field(default_factory=dict)
    used: dict[int, Tensor] = field(default_factory=dict)


class StepObserver(Protocol):
    """What a `StepWatch` calls at each step, such as `ShadowOptimizers`."""

    def before(self, index: int) -> None:
        """Optimizer `index` is about to make a step."""

    def after(self, index: int) -> None:
        """Optimizer `index` made a step, and has its gradients still."""

    def steps(self, index: int, before: Mapping[int, Tensor]) -> dict[str, dict[int, Tensor]]:
        """By name the last shadow steps from the weights `before`, each by `id(parameter)`."""
        ...


class StepWatch:
    """Keeps the weights before and after the next step of each optimizer, while armed.

    torch's own hooks on `optimizer.step` see each step as it is taken: after accumulation, once for
    LBFGS, under manual optimization, and not when a GradScaler skips it.

    Args:
        optimizers: to watch.
        errors: where failures go.
        clips_by_value: whether gradients are clipped by value.
        shadows: called at each step, also while this is not armed.
        keeps_used: whether to keep the gradient as the optimizer got it, too.

    Attributes:
        stepped: whether an optimizer made a step since this was last set to False.
        failed: whether a step could not be watched since it was armed.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        *,
        errors: ErrorPolicy,
        clips_by_value: bool = False,
        shadows: StepObserver | None = None,
        keeps_used: bool = False,
    ) -> None:
        self.optimizers = list(optimizers)
        self.finished: dict[int, FinishedStep] = {}
        self.stepped = True
        self.failed = False
        self._errors = errors
        self._clips_by_value = clips_by_value
        self._shadows = shadows
        self._keeps_used = keeps_used
        self._armed = False
        self._buffers: dict[tuple[str, int], Buffers] = {}
        self._before: dict[int, dict[int, Tensor]] = {}
        self._first: dict[int, bool] = {}
        self._gradients: dict[int, dict[int, Tensor]] = {}
        self._handles: list[RemovableHandle] = []
        for index, optimizer in enumerate(self.optimizers):
            self._handles += [
                optimizer.register_step_pre_hook(self._guarded(self._keep_weights, index)),
                optimizer.register_step_post_hook(self._guarded(self._keep_update, index)),
            ]

    def arm(self) -> None:
        """Keep the first step of each optimizer from now on."""
        self.disarm()
        self._armed = True
        self.failed = False

    def disarm(self) -> dict[int, FinishedStep]:
        """Stop, forget, and give what was finished, by optimizer index."""
        finished, self.finished = self.finished, {}
        self._before, self._gradients = {}, {}
        self._armed = False
        return finished

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.disarm()

    def record_gradient(self, optimizer: Optimizer) -> None:
        """Keep the gradient of the coming step before it is clipped."""
        for index, watched in enumerate(self.optimizers):
            first = self._armed and index not in self.finished
            if first and watched is optimizer and not isinstance(optimizer, torch.optim.LBFGS):
                self._gradients[index] = self._copied("gradient", index, gradient_of(optimizer))

    def _guarded(self, do: Callable[[int], None], index: int) -> Callable[..., None]:
        def hook(*_: object) -> None:
            failed, self.failed = self.failed, True
            with self._errors.guard("watching a step of the optimizer"):
                do(index)
                self.failed = failed

        return hook

    def _keep_weights(self, index: int) -> None:
        if self._shadows is not None:
            self._shadows.before(index)
        if self._armed and index not in self.finished:
            self._before[index] = self._copied("before", index, _weights(self.optimizers))
            self._first[index] = not self.optimizers[index].state

    def _keep_update(self, index: int) -> None:
        self.stepped = True
        if self._shadows is not None:
            self._shadows.after(index)
        before = self._before.pop(index, None)
        if before is None:
            return
        compared = {} if self._shadows is None else self._shadows.steps(index, before)
        optimizer = self.optimizers[index]
        gradient = self._gradients.pop(index, {})
        sharded = any(map(is_sharded, trained(optimizer)))
        used = gradient_used(optimizer)
        scale = _scaled_by(gradient, used, sharded=sharded)
        settings = Settings.of(optimizer, gradient_scale=None if self._clips_by_value else scale)
        if scale is None and not self._clips_by_value and settings.law.reason is not None:
            settings = replace(settings, law=replace(settings.law, reason=_TURNED))
        if self._first[index] or _any_new(optimizer):
            settings = replace(settings, law=_without_single_gradient(settings.law))
        after = self._copied("after", index, _weights([optimizer]))
        kept = self._keeps_used and not isinstance(optimizer, torch.optim.LBFGS)
        used = self._copied("used", index, used) if kept else {}
        self.finished[index] = FinishedStep(before, after, gradient, settings, compared, used)

    def _copied(self, what: str, index: int, tensors: dict[int, Tensor]) -> dict[int, Tensor]:
        return self._buffers.setdefault((what, index), Buffers()).copied(tensors)


class Buffers:
    """Copies of tensors, in memory that is taken once: taking it anew costs more than copying."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []

    @torch.no_grad()
    def copied(self, tensors: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Copies of `tensors`, by the same keys; they are the copies of the last call, written over."""
        new = list(tensors.values())
        if len(new) != len(self._kept) or not all(map(_is_alike, new, self._kept)):
            self._kept = [torch.empty_like(t) for t in new]
        if new:
            torch._foreach_copy_(self._kept, new)
        return dict(zip(tensors, self._kept, strict=True))


def _is_alike(a: Tensor, b: Tensor) -> bool:
    return (a.shape, a.dtype, a.device, a.stride()) == (b.shape, b.dtype, b.device, b.stride())


def _scaled_by(before: dict[int, Tensor], after: dict[int, Tensor], *, sharded: bool) -> float | None:
    """The factor between two gradients, None if they differ by more than one for all parameters."""
    pairs = [(before[key].reshape(-1), after[key].reshape(-1)) for key in before if key in after]
    if not pairs:
        return 1.0
    # the common case, for less; on an accelerator each look makes the host wait
    on_host = not sharded and all(b.device.type == "cpu" for _, b in pairs)
    if on_host and all(torch.equal(a, b) for a, b in pairs):
        return 1.0
    each = [torch.stack([local_dot(x, y) for x, y in ((a, a), (a, b), (b, b))]) for a, b in pairs]
    stacked = torch.stack([t.to(each[0].device) for t in each])
    products: list[list[float]] = (summed(stacked) if sharded else stacked).tolist()
    old = sum(aa for aa, _, _ in products)
    if not 0.0 < old < math.inf:
        return 1.0  # nothing to compare, and no step either
    factor = sum(ab for _, ab, _ in products) / old
    if not 0.0 <= factor < math.inf:  # reversed, or no longer finite
        return None
    for aa, ab, bb in products:
        # |b - factor a|^2, but for rounding; a parameter may be clipped alone
        off = bb - 2 * factor * ab + factor**2 * aa
        if off > _SAME_DIRECTION**2 * max(bb, factor**2 * aa) and max(aa, bb) > 1e-12 * old:
            return None
    return factor


def _without_single_gradient(law: StabilityLaw) -> StabilityLaw:
    if law.edge is None or not law.adaptive:
        return law
    return replace(
        law,
        edge=None,
        reason="the preconditioner of a first step is computed from one gradient alone, and the law "
        "holds only where it changes slowly",
    )


def _any_new(optimizer: Optimizer) -> bool:
    """Whether a parameter has just made its first step; Adagrad has a state before it."""
    return any(float(state["step"]) == 1.0 for state in optimizer.state.values() if "step" in state)


def _weights(optimizers: Sequence[Optimizer]) -> dict[int, Tensor]:
    weights = {id(p): p for o in optimizers for g in o.param_groups for p in g["params"]}
    return {key: local(p.detach()) for key, p in weights.items()}
