"""Isolated optimizers and schedulers: `training_step` may call them without effect."""

from __future__ import annotations

import types
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from curvwatch.objective.isolation.containers import map_containers

if TYPE_CHECKING:
    import lightning.pytorch as pl

# what is done in place of a step: the optimizer, its closure, whether Lightning counts the step
OnStep = Callable[[Optimizer, Callable[[], Any] | None, bool], Any]


class ParameterSlots:
    """Where in a module each weight is, so that what stands in for it can be found.

    Args:
        module: with its own weights, not isolated.
    """

    def __init__(self, module: nn.Module) -> None:
        self._places: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
        for part in module.modules():
            for name, weight in part._parameters.items():
                if weight is not None:
                    self._places[id(weight)].append((part, name))

    def now(self, weight: Tensor) -> Tensor | None:
        """What is in the place of `weight`; None: it is no parameter of the module."""
        for part, name in self._places.get(id(weight), ()):
            return part._parameters[name]
        return None

    def put(self, weight: Tensor, value: Tensor) -> None:
        """Set all places of `weight` to `value`: a graph goes on with the tensor that was there."""
        present = self.now(weight)
        if present is not None:
            value = value.clone().requires_grad_(present.requires_grad)
        for part, name in self._places.get(id(weight), ()):
            part._parameters[name] = value  # type: ignore[assignment]  # a plain tensor, while isolated


class IsolatedOptimizers:
    """All optimizers and schedulers of a run, and those that the module keeps to itself.

    Args:
        trainer: in the midst of `fit`.
        module: not isolated.
    """

    def __init__(self, trainer: pl.Trainer, module: nn.Module) -> None:
        # private (2.2 to 2.6): what `self.optimizers()` gives
        self._wrapped = list(getattr(trainer.strategy, "_lightning_optimizers", ()))
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        found = _found([trainer.optimizers, schedulers, [vars(part) for part in module.modules()]])
        # a LightningOptimizer is an instance of its optimizer's class, and has no groups of its own
        self._raw = [o for o in found if isinstance(o, Optimizer) and "param_groups" in vars(o)]
        self._schedulers = [s for s in found if not isinstance(s, Optimizer)]
        self.places = ParameterSlots(module)

    @contextmanager
    def lent(self, on_step: OnStep, on_clear: Callable[[Sequence[Tensor]], None]) -> Iterator[None]:
        """Let the module use them: the parameters are what stands in for them, and no step is made.

        Args:
            on_step: called instead of a step.
            on_clear: called with the parameters whose gradients are cleared.
        """
        originals = [(o, type(o), vars(o)) for o in (*self._raw, *self._wrapped, *self._schedulers)]
        try:
            for optimizer in self._raw:
                state = self._copied(optimizer)
                _without_effect(state, optimizer, on_step, on_clear, counted=False)
                _give(optimizer, _lent_class(cast(Any, type(optimizer))), state)
            for wrapper in self._wrapped:
                state = dict(vars(wrapper))
                _without_effect(state, wrapper.optimizer, on_step, on_clear, counted=True)
                _give(wrapper, type(wrapper), state)
            for scheduler in self._schedulers:
                state = map_containers(vars(scheduler), _cloned)
                _give(scheduler, type(scheduler), {**state, "step": _nothing})
            yield
        finally:
            for owner, cls, state in originals:
                _give(owner, cls, state)

    def refresh(self, optimizer: Optimizer) -> None:
        """After `places` were changed: the isolated `optimizer` has what is there now."""
        for group, real in zip(optimizer.param_groups, vars(optimizer)["_real_groups"], strict=True):
            group["params"] = [self._stand_in(p) for p in real["params"]]

    def _copied(self, optimizer: Optimizer) -> dict[str, Any]:
        original = vars(optimizer)
        groups = original["param_groups"]
        stand_ins = {id(p): self._stand_in(p) for group in groups for p in group["params"]}

        def copied_state() -> Any:
            copies = {
                stand_ins.get(id(p), p): map_containers(state, _cloned)
                for p, state in original["state"].items()
            }
            return defaultdict(dict, copies)

        settings = [
            {k: map_containers(v, _cloned) for k, v in group.items() if k != "params"}
            for group in groups
        ]
        return {
            **original,
            "param_groups": [
                {"params": [stand_ins[id(p)] for p in group["params"]], **rest}
                for group, rest in zip(groups, settings, strict=True)
            ],
            "state": _Later(copied_state),
            "_real_groups": groups,
        }

    def _stand_in(self, weight: Tensor) -> Tensor:
        present = self.places.now(weight)
        return _cloned(weight) if present is None else present


class _Later:
    """The optimizer's state is twice as large as the weights, and seldom looked at."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


def _state(optimizer: Any) -> Any:
    own = vars(optimizer)
    if isinstance(own["state"], _Later):
        own["state"] = own["state"].make()
    return own["state"]


def _set_state(optimizer: Any, value: Any) -> None:
    vars(optimizer)["state"] = value


@lru_cache(maxsize=64)
def _lent_class(cls: Any) -> type:
    """A class for isolated optimizers of `cls`."""
    members = {"state": property(_state, _set_state), "__module__": cls.__module__}
    return types.new_class(cls.__name__, (cls,), exec_body=lambda namespace: namespace.update(members))


def _give(owner: Any, cls: type, state: dict[str, Any]) -> None:
    if type(owner) is not cls:
        owner.__class__ = cls
    object.__setattr__(owner, "__dict__", state)


def _without_effect(
    state: dict[str, Any],
    optimizer: Optimizer,
    on_step: OnStep,
    on_clear: Callable[[Sequence[Tensor]], None],
    *,
    counted: bool,
) -> None:
    def step(closure: Callable[[], Any] | None = None, **_: Any) -> Any:
        return on_step(optimizer, closure, counted)

    def zero_grad(set_to_none: bool = True) -> None:
        on_clear([p for group in optimizer.param_groups for p in group["params"]])

    # a scheduler that is made or stepped meanwhile looks for this mark
    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    state.update(step=step, zero_grad=zero_grad)


def _found(places: Any) -> list[Any]:
    """Optimizers and schedulers in nested containers, and in other schedulers, each once."""
    found: dict[int, Any] = {}
    seen: set[int] = set()

    def visit(value: Any) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, Mapping):
            visit(list(value.values()))
        elif isinstance(value, (list, tuple)):
            for part in value:
                visit(part)
        elif isinstance(value, Optimizer):
            found[id(value)] = value
        elif _is_scheduler(value):
            found[id(value)] = value
            visit(list(vars(value).values()))

    visit(places)
    return list(found.values())


def _is_scheduler(value: Any) -> bool:
    if isinstance(value, torch.optim.lr_scheduler.LRScheduler):
        return True
    # Lightning takes what has these for one
    is_one = callable(getattr(value, "step", None)) and hasattr(value, "optimizer")
    return (
        is_one
        and hasattr(value, "state_dict")
        and hasattr(value, "__dict__")
        and not isinstance(value, (type, nn.Module))
    )


def _cloned(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().clone().requires_grad_(value.requires_grad)


def _nothing(*_: Any, **__: Any) -> None:
    """In place of a scheduler's step."""
