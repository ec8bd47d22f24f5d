"""An isolated module: whatever is done to it meanwhile leaves no trace.

A reading calls the user's code, which counts, caches, queues and updates statistics. So for the time
of a reading every object that the module is made of gets another `__dict__`, filled with copies; on
return the original one is put back, the very same object with the very same tensors. Parameters are
replaced by the leaves that are differentiated, so hooks on the real ones do not fire.
"""

from __future__ import annotations

import copy
import sys
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from io import IOBase
from threading import get_ident
from typing import Any
from weakref import ProxyTypes

import numpy as np
from torch import Tensor, nn

from curvwatch.errors import CurvwatchError
from curvwatch.objective.isolation.containers import CONTAINERS, ContainerMap
from curvwatch.objective.isolation.object_graph import (
    SKIPPED_ATTRIBUTES,
    KeptGraph,
    ObjectGraph,
    has_memory,
    is_weight,
    shared_state,
)
from curvwatch.objective.isolation.object_state import PerClass, get_state, set_state, shows_its_class
from curvwatch.objective.isolation.random_state import Generator, RandomState
from curvwatch.objective.isolation.second_order_kernels import twice_differentiable

# by module: the class and the method that everything it logs passes through (torch 2.4 to 2.13, wandb
# 0.16 to 0.31)
_LOGS = {
    "torch.utils.tensorboard.writer": ("FileWriter", "add_event"),
    "wandb.sdk.wandb_run": ("Run", "_log"),
}


@contextmanager
def mute_loggers() -> Iterator[None]:
    """Let SummaryWriters and W&B runs drop what this thread logs meanwhile."""
    with ExitStack() as stack:
        for module, (name, method) in _LOGS.items():
            owner = getattr(sys.modules.get(module), name, None)  # who has not imported it cannot log
            if callable(getattr(owner, method, None)):
                stack.enter_context(_dropped(owner, method))
        yield


@contextmanager
def _dropped(owner: Any, method: str) -> Iterator[None]:
    original = getattr(owner, method)
    thread = get_ident()

    @wraps(original)
    def drop(*args: Any, **kwargs: Any) -> Any:
        return None if get_ident() == thread else original(*args, **kwargs)

    setattr(owner, method, drop)
    try:
        yield
    finally:
        setattr(owner, method, original)


_ARRAYS = (Tensor, np.ndarray, bytearray, array)


@dataclass(frozen=True)
class ModuleState:
    """What a module remembers beside its weights: buffers, attributes, containers, flags.

    `states` pairs each object that the module is made of with its `__dict__`; weights in it are the
    real ones.
    """

    states: tuple[tuple[Any, dict[str, Any]], ...]
    generators: tuple[Generator, ...]
    weights: tuple[Tensor, ...]

    @classmethod
    def of(cls, module: nn.Module, kept: KeptGraph | None = None) -> ModuleState:
        """The memory of `module` by reference: it changes as the module does.

        `kept`, where there is one, is the graph of `module`, and saves a walk.

        Raises:
            CurvwatchError: a submodule is scripted; its state lives outside Python.
        """
        walk = ObjectGraph(module) if kept is None else kept.current()
        return cls(
            states=tuple((owner, get_state(owner)) for owner in walk.owners),
            generators=tuple(walk.generators),
            weights=tuple(walk.weights),
        )

    def copied(self, substitutes: Mapping[int, Tensor] | None = None) -> ModuleState:
        """A copy that does not change; weights named by `id` in `substitutes` are replaced."""
        copies: dict[int, Any] = {}
        # an owner that is a container itself keeps its identity: its state is what is replaced
        containers = {id(owner): owner for owner, _ in self.states}
        substitutes = substitutes or {}

        def leaf(value: Any) -> Any:
            if isinstance(value, Tensor) and is_weight(value):
                return substitutes.get(id(value), value)
            if isinstance(value, _ARRAYS):
                if id(value) not in copies:
                    copies[id(value)] = _copy_of(value)
                return copies[id(value)]
            return _FrozenIterator(value) if _is_iterator(value) else value

        mapped = ContainerMap(leaf, containers, stay=_STAY)
        return replace(
            self,
            states=tuple((owner, _copied_state(owner, state, mapped)) for owner, state in self.states),
        )

    def random_state(self) -> RandomState:
        """The present random state of everything that the module may draw from."""
        return RandomState.take({w.device for w in self.weights}, self.generators)


class IsolatedModule:
    """A module whose state is put back later; made by `isolated`.

    Attributes:
        random: the random state when it was isolated, which is put back.
    """

    def __init__(self, memory: ModuleState, random: RandomState) -> None:
        self._memory = memory
        self.random = random

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """The module's real weights."""
        return self._memory.weights

    def load(
        self,
        substitutes: Mapping[int, Tensor],
        *,
        memory: ModuleState | None = None,
        train: bool | None = None,
        random: RandomState | None = None,
    ) -> None:
        """Set the module to a copy of `memory` (default: the one that it had when it was isolated).

        Args:
            substitutes: from `id(weight)` to the tensor that stands in for it; a weight that is not
                named here is replaced by a copy, for `training_step` may write to it (a moving
                average of the weights).
            memory: buffers and attributes to start from.
            train: force train or eval mode on all submodules; None keeps each one's own.
            random: random state to start from.
        """
        memory = memory or self._memory
        others = {id(w): w.detach().clone() for w in memory.weights if id(w) not in substitutes}
        for owner, state in memory.copied({**others, **substitutes}).states:
            if isinstance(owner, nn.Module):
                _suspend_backward_hooks(state)
                _suspend_observers(state)
                if train is not None:
                    state["training"] = train
            set_state(owner, state)
        if random is not None:
            random.set(memory.generators)


@contextmanager
def isolated(module: nn.Module, kept: KeptGraph | None = None) -> Iterator[IsolatedModule]:
    """Lend `module` out and take it back as it was, bit for bit, also after an exception.

    Random generators (torch, CUDA devices of the weights, Python, NumPy, those on the module) are put
    back too. Kernels without a second derivative are avoided meanwhile.

    Raises:
        CurvwatchError: a submodule is scripted.
    """
    memory = ModuleState.of(module, kept)
    random = memory.random_state()
    with twice_differentiable(), mute_loggers():
        try:
            yield IsolatedModule(memory, random)
        finally:
            for owner, original in memory.states:
                set_state(owner, original)
            random.set(memory.generators)


def _copy_of(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    try:
        return copy.copy(value)
    except Exception:  # a subclass that must be made in its own way
        return value


def _is_iterator(value: Any) -> bool:
    known = isinstance(value, (IOBase, _FrozenIterator)) or has_memory(value)
    return isinstance(value, Iterator) and not known


class _FrozenIterator:
    """Stands in for an iterator, which cannot be rewound after a reading."""

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)

    def __iter__(self) -> _FrozenIterator:
        return self

    def __next__(self) -> Any:
        raise CurvwatchError(
            f"training_step calls next() on a {type(self._iterator).__name__} that the module keeps, "
            "and a reading cannot rewind it: give CurvatureMonitor(loss_fn=lambda module, batch: ...) "
            "a loss that does not use it"
        )


def _copied_state(owner: Any, state: dict[str, Any], mapped: ContainerMap) -> dict[str, Any]:
    shared = shared_state(owner)
    return {
        name: value if _STAY[type(value)] or name in SKIPPED_ATTRIBUTES else mapped(value)
        for name, value in ((shared | state) if shared else state).items()
    }


def _stays(cls: type) -> bool:
    """Whether a copy of a state has each object of `cls` itself."""
    if cls in ProxyTypes:
        return True
    return shows_its_class(cls) and not issubclass(cls, (*_ARRAYS, *CONTAINERS, Iterator))


_STAY = PerClass(_stays)


def _suspend_backward_hooks(state: dict[str, Any]) -> None:
    # they watch the backward passes of training, and a reading is none
    for name in ("_backward_hooks", "_backward_pre_hooks"):
        if name in state:
            state[name] = OrderedDict()


def _suspend_observers(state: dict[str, Any]) -> None:
    # W&B's watch counts forward passes and logs the weights in some
    for name in ("_forward_hooks", "_forward_pre_hooks"):
        hooks = state.get(name, {})
        for key, hook in list(hooks.items()):
            if _is_of(hook, "wandb"):
                del hooks[key]


def _is_of(function: Any, package: str) -> bool:
    module: str = getattr(function, "__module__", None) or ""
    return module.partition(".")[0] == package
