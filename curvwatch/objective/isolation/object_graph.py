"""What a module is made of: objects with state, weights, generators."""

from __future__ import annotations

import os
import sys
import sysconfig
from argparse import Namespace
from array import array
from collections import ChainMap, UserDict, UserList, deque
from collections.abc import MutableMapping
from functools import lru_cache, partial
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
from curvwatch.objective.isolation.object_state import SlotsOf, get_state, has_dict, slots
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
        self._visit(module)

    def _visit(self, value: Any) -> None:
        # a proxy passes for what it stands for, and a dead one raises
        if type(value) in ProxyTypes or isinstance(value, _ATOMS) or id(value) in self._seen:
            return
        self._seen.add(id(value))
        if isinstance(value, Tensor):
            if is_weight(value):
                self.weights.append(value)
        elif isinstance(value, _GENERATORS):
            self.generators.append(value)
        elif isinstance(value, torch.jit.ScriptModule):
            raise CurvwatchError(
                f"{type(value).__name__} is a scripted module, whose parameters cannot be replaced "
                "during a reading: give the Trainer the module before torch.jit.script"
            )
        elif isinstance(value, (dict, MappingProxyType)):
            self._visit_all([*value.values(), *get_state(value).values()])
        elif isinstance(value, (list, tuple, set, frozenset, deque)):
            self._visit_all([*value, *get_state(value).values()])
        elif isinstance(value, MethodType):  # a hook may be the only one to know its object
            self._visit(value.__self__)
        elif isinstance(value, FunctionType):
            cells = value.__closure__ or ()
            # not by its __module__: a decorator's wrapper has that of what it wraps
            if _is_opaque(value.__globals__.get("__name__", "")):
                for cell in cells:
                    self._visit_state(cell)
            else:
                for part in (value, *cells):
                    self._own(part)
        elif isinstance(value, partial) or has_memory(value):
            self._own(value)

    def _visit_all(self, values: list[Any]) -> None:
        for v in values:
            self._visit(v)

    def _own(self, owner: Any) -> None:
        if isinstance(owner, CellType):  # of several functions
            if id(owner) in self._seen:
                return
            self._seen.add(id(owner))
        self.owners.append(owner)
        self._visit_state(owner)
        if isinstance(owner, nn.Module) and slots(type(owner)):
            self._own(SlotsOf(owner))

    def _visit_state(self, owner: Any) -> None:
        for name, v in [*get_state(owner).items(), *shared_state(owner).items()]:
            if name not in SKIPPED_ATTRIBUTES:
                self._visit(v)


def is_weight(t: Tensor) -> bool:
    """Whether `t` is trained, or could be."""
    return isinstance(t, nn.Parameter) or (t.is_leaf and t.requires_grad)


def has_memory(value: Any) -> bool:
    """Whether `value` is an object with state that training_step may change."""
    if isinstance(value, (nn.Module, *_STORES)):
        return True
    return (has_dict(value) or bool(slots(type(value)))) and not _is_service(type(value))  # type: ignore[arg-type]


def shared_state(owner: Any) -> dict[str, Any]:
    """What the classes of `owner` hold that could change: a copy in its own `__dict__` hides it."""
    return {
        name: value
        for cls in _own_classes(type(owner))  # type: ignore[arg-type]  # a class is hashable
        for name, value in vars(cls).items()
        if isinstance(value, _MUTABLE) and not name.startswith("__")
    }


@lru_cache(maxsize=4096)
def _own_classes(cls: type) -> tuple[type, ...]:
    """The user's classes that `cls` inherits from, the last one first."""
    if not cls.__dictoffset__:  # its objects have nothing to hide in
        return ()
    return tuple(base for base in reversed(cls.__mro__) if not _is_opaque(base.__module__))


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
