"""What a module is made of: objects with state, weights, generators."""

from __future__ import annotations

import os
import sys
import sysconfig
from argparse import Namespace
from array import array
from collections import ChainMap, OrderedDict, UserDict, UserList, deque
from collections.abc import Callable, Iterable, MutableMapping
from functools import lru_cache, partial
from operator import is_
from pathlib import Path
from queue import Queue
from random import Random
from types import CellType, FunctionType, MappingProxyType, MethodType, ModuleType, SimpleNamespace
from typing import Any
from weakref import ProxyTypes, WeakKeyDictionary, WeakSet, WeakValueDictionary

import numpy as np
import torch
from torch import Tensor, nn

from curvwatch.errors import CurvwatchError
from curvwatch.objective.isolation.object_state import (
    PerClass,
    SlotsOf,
    get_state,
    shows_its_class,
    slots,
)
from curvwatch.objective.isolation.random_state import Generator

# names alone (2.2 to 2.6): where a LightningModule keeps its Trainer or Fabric, which are not its state
SKIPPED_ATTRIBUTES = frozenset({"_trainer", "_fabric"})

_OURS = __name__.partition(".")[0]
# objects of these, as of the standard library, are services (trainers, loggers, loaders, locks), and
# no model's memory
_SERVICES = frozenset(
    {
        _OURS,
        "torch",
        "lightning",
        "pytorch_lightning",
        "lightning_fabric",
        "lightning_utilities",
        "torchmetrics",
        "numpy",
        "wandb",
        "tensorboard",
    }
)
# of the standard library, and memory all the same
_STORES = (
    SimpleNamespace,
    Namespace,
    UserDict,
    UserList,
    ChainMap,
    Queue,
    WeakKeyDictionary,
    WeakValueDictionary,
    WeakSet,
)
_GENERATORS = (torch.Generator, Random, np.random.Generator, np.random.RandomState)
_MUTABLE = (MutableMapping, list, deque, set, Tensor, np.ndarray, bytearray, array, *_STORES)
_ATOMS = (str, bytes, int, float, complex, type(None), type, ModuleType)
# what a value is to a walk
_IGNORED, _ASK, _TENSOR, _GENERATOR, _SCRIPTED, _MAPPING, _ITEMS, _METHOD, _FUNCTION, _OWNER = range(10)
# of these very classes a container has items and nothing else
_PLAIN = frozenset({dict, MappingProxyType, list, tuple, set, frozenset, deque})
# of these very classes it is empty where its length is 0, but for the attributes of an `OrderedDict`
_EMPTIABLE = frozenset({dict, OrderedDict, list, set, deque})
# a graph of more objects, or of a module that holds larger tensors beside weights, or tensors with a
# graph, is not kept: it would hold what the module lets go of
_MOST_KEPT = 5000
_MOST_BYTES = 1 << 20


class ObjectGraph:
    """Visits once all that hangs on `module`.

    Attributes:
        owners: the objects with state, as `state_of` takes it.
        generators: of random numbers.
        weights: the real ones, also those that no module has registered.

    Raises:
        CurvwatchError: a submodule is scripted; its state lives outside Python.
    """

    def __init__(self, module: nn.Module) -> None:
        self.owners: list[Any] = []
        self.generators: list[Generator] = []
        self.weights: list[Tensor] = []
        self._seen: set[int] = set()
        # each object that was looked into, its class, what it is to a walk, and where it led to: no
        # more, as tensors that are no weights would stay in memory
        self._found: list[tuple[Any, Any, int, list[Any]]] = []
        self._empty: list[Any] = []  # most are, as of hooks: they are looked at together
        self._empty_ordered: list[Any] = []  # may have attributes, too
        self._holds_results = False
        self._visit((module,))

    @property
    def is_current(self) -> bool:
        """Whether a walk of now would find the same objects.

        It looks into those that are known, for less than a walk takes.
        """
        if any(map(len, self._empty)) or any(map(vars, self._empty_ordered)):
            return False
        for holder, cls, kind, before in self._found:
            if type(holder) is not cls:
                return False
            now = _led_to(_contents(holder, kind))
            if len(now) != len(before) or not all(map(is_, now, before)):
                return False
        return True

    @property
    def is_light(self) -> bool:
        """Whether it may be kept after the module has let go of what it is made of."""
        return not self._holds_results and len(self._found) + len(self._empty) <= _MOST_KEPT

    def _visit(self, values: Iterable[Any]) -> None:
        seen = self._seen
        for value in values:
            kind = _KINDS[type(value)]
            if kind == _IGNORED or id(value) in seen:
                continue
            seen.add(id(value))
            if kind == _ASK:
                kind = _kind(type(value), partial(isinstance, value))
            if kind == _TENSOR:
                if is_weight(value):
                    self.weights.append(value)
                elif _is_large(value):
                    self._holds_results = True
            elif kind in (_MAPPING, _ITEMS):
                self._look_into(value, kind)
            elif kind == _OWNER:
                self._own(value)
            elif kind == _FUNCTION:
                self._visit_function(value)
            elif kind == _METHOD:  # a hook may be the only one to know its object
                self._visit((value.__self__,))
            elif kind == _GENERATOR:
                self.generators.append(value)
            elif kind == _SCRIPTED:
                raise CurvwatchError(
                    f"{type(value).__name__} is a scripted module, whose parameters cannot be replaced "
                    "during a reading: give the Trainer the module before torch.jit.script"
                )

    def _visit_function(self, function: FunctionType) -> None:
        cells = function.__closure__ or ()
        # not by its __module__: a decorator's wrapper has that of what it wraps
        if _is_opaque(function.__globals__.get("__name__", "")):
            for cell in cells:
                self._look_into(cell, _OWNER)
        else:
            for part in (function, *cells):
                self._own(part)

    def _own(self, owner: Any) -> None:
        if isinstance(owner, CellType):  # of several functions
            if id(owner) in self._seen:
                return
            self._seen.add(id(owner))
        self.owners.append(owner)
        self._look_into(owner, _OWNER)
        if isinstance(owner, nn.Module) and slots(type(owner)):
            self._own(SlotsOf(owner))

    def _look_into(self, holder: Any, kind: int) -> None:
        if type(holder) in _EMPTIABLE and not holder and not get_state(holder):
            self._empty.append(holder)
            if type(holder) is OrderedDict:
                self._empty_ordered.append(holder)
            return
        contents = _contents(holder, kind)
        self._found.append((holder, type(holder), kind, _led_to(contents)))
        self._visit(contents)


def is_weight(t: Tensor) -> bool:
    """Whether `t` is trained, or could be."""
    if type(t) is nn.Parameter or (t.is_leaf and t.requires_grad):
        return True
    return isinstance(t, nn.Parameter)  # of a tensor subclass


def _is_large(t: Tensor) -> bool:
    """Whether `t` holds more than a buffer does: a graph, many numbers, or what its class knows."""
    return t.requires_grad or type(t) is not Tensor or t.numel() * t.element_size() > _MOST_BYTES


def has_memory(value: Any) -> bool:
    """Whether `value` is an object with state that training_step may change."""
    return _has_memory(type(value), partial(isinstance, value))


def _has_memory(cls: Any, is_a: Callable[[Any], bool]) -> bool:
    if is_a((nn.Module, *_STORES)):
        return True
    return bool(cls.__dictoffset__ or slots(cls)) and not _is_service(cls)


def _kind(cls: Any, is_a: Callable[[Any], bool]) -> int:
    """What a value of `cls`, an instance of what `is_a` says, is to a walk."""
    # a proxy passes for what it stands for, and a dead one raises
    if cls in ProxyTypes or is_a(_ATOMS):
        return _IGNORED
    if is_a(Tensor):
        return _TENSOR
    if is_a(_GENERATORS):
        return _GENERATOR
    if is_a(torch.jit.ScriptModule):
        return _SCRIPTED
    if is_a((dict, MappingProxyType)):
        return _MAPPING
    if is_a((list, tuple, set, frozenset, deque)):
        return _ITEMS
    if is_a(MethodType):
        return _METHOD
    if is_a(FunctionType):
        return _FUNCTION
    return _OWNER if is_a(partial) or _has_memory(cls, is_a) else _IGNORED


def _kind_of_class(cls: type) -> int:
    if cls in ProxyTypes:
        return _IGNORED
    return _kind(cls, partial(issubclass, cls)) if shows_its_class(cls) else _ASK


_KINDS = PerClass(_kind_of_class)


def _contents(holder: Any, kind: int) -> tuple[Any, ...]:
    """What a walk visits in `holder`."""
    if kind == _OWNER:
        state, shared = get_state(holder), shared_state(holder)
        if not shared and SKIPPED_ATTRIBUTES.isdisjoint(state):
            return tuple(state.values())
        pairs = (*state.items(), *shared.items())
        return tuple(value for name, value in pairs if name not in SKIPPED_ATTRIBUTES)
    items = holder.values() if kind == _MAPPING else holder
    if type(holder) in _PLAIN:
        return tuple(items)
    return (*items, *get_state(holder).values())


def _led_to(contents: tuple[Any, ...]) -> list[Any]:
    """Those of `contents` that a walk goes on from, or keeps."""
    kinds = _KINDS
    return [
        value
        for value in contents
        if (kind := kinds[type(value)]) != _IGNORED and (kind != _TENSOR or is_weight(value))
    ]


class KeptGraph:
    """The graph of one module, kept from one reading to the next.

    Args:
        module: not isolated when it is asked for.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._graph: ObjectGraph | None = None

    def current(self) -> ObjectGraph:
        """The graph as it is now; walked anew only where it has changed."""
        if self._graph is not None and self._graph.is_current:
            return self._graph
        self._graph = None
        graph = ObjectGraph(self._module)
        if graph.is_light:
            self._graph = graph
        return graph


def shared_state(owner: Any) -> dict[str, Any]:
    """What the classes of `owner` hold that could change: a copy in its own `__dict__` hides it."""
    return {
        name: value
        for cls in _OWN_CLASSES[type(owner)]
        for name, value in vars(cls).items()
        if _MUTABLES[type(value)] and isinstance(value, _MUTABLE) and not name.startswith("__")
    }


# of each class whether its objects could be changed: only a no is final
_MUTABLES = PerClass(lambda cls: issubclass(cls, _MUTABLE) or not shows_its_class(cls))


def _own_classes(cls: type) -> tuple[type, ...]:
    """The user's classes that `cls` inherits from, the last one first."""
    if not cls.__dictoffset__:  # its objects have nothing to hide in
        return ()
    return tuple(base for base in reversed(cls.__mro__) if not _is_opaque(base.__module__))


_OWN_CLASSES = PerClass(_own_classes)


@lru_cache(maxsize=4096)
def _is_service(cls: type) -> bool:
    # a subclass of a monitor is a monitor: its readings would be undone whenever the module is put back
    return _is_opaque(cls.__module__) or any(_top(base.__module__) == _OURS for base in cls.__mro__)


def _is_opaque(module: str) -> bool:
    top = _top(module)
    if top not in sys.stdlib_module_names:
        return top in _SERVICES
    return _ships_with_python(getattr(sys.modules.get(top), "__file__", None))


def _top(module: str) -> str:
    return module.partition(".")[0]


@lru_cache(maxsize=512)
def _ships_with_python(file: str | None) -> bool:
    """Whether `file`, of a module with a name of the standard library, is of that library."""
    if file is None:  # built into the interpreter
        return True
    folders = {
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib"),
        os.path.dirname(os.__file__),
    }
    path = Path(os.path.realpath(file))
    for folder in map(os.path.realpath, folders):
        if path.is_relative_to(folder):
            return not {"site-packages", "dist-packages"} & set(path.relative_to(folder).parts)
    return False
