"""The state of any Python object, taken and given."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from types import CellType, FunctionType, MemberDescriptorType, SimpleNamespace
from typing import Any, Generic, TypeVar

from torch import nn

T = TypeVar("T")

_SLOT = object.__getattribute__
# so many classes are known at a time; a program that makes classes as it runs would fill the memory
_MOST_CLASSES = 4096
_OF_FUNCTIONS = ("__defaults__", "__kwdefaults__", "__dict__")
# as `partial.__setstate__` takes them
_OF_PARTIALS = ("func", "args", "keywords", "__dict__")


class PerClass(dict[type, T], Generic[T]):
    """What `decide` says of a class, asked once for each: `decisions[type(value)]`.

    A look-up takes a tenth of the `isinstance` that it stands for, and a reading makes thousands.
    """

    def __init__(self, decide: Callable[[type], T]) -> None:
        super().__init__()
        self._decide = decide

    def __missing__(self, cls: type) -> T:
        if len(self) >= _MOST_CLASSES:
            self.clear()
        decision = self[cls] = self._decide(cls)
        return decision


def shows_its_class(cls: type) -> bool:
    """Whether `isinstance` goes by the class alone, for objects of `cls`.

    A proxy or a stand-in may have a `__class__` of its own, as that of another object.
    """
    for base in cls.__mro__[:-1]:  # less `object`
        if "__class__" in vars(base):
            return False
        # of a compiled class it is a slot, and the usual one
        if not isinstance(vars(base).get("__getattribute__", _SLOT), type(_SLOT)):
            return False
    return True


@dataclass(frozen=True)
class SlotsOf:
    """The slots of a module, apart from its `__dict__`."""

    module: nn.Module


def get_state(owner: Any) -> dict[str, Any]:
    """The `__dict__` of `owner` itself; of an object without one a dict that holds its values.

    Such are objects with slots, functions, `partial`s, and the variables (cells) of a closure.
    """
    if has_own_dict(owner):
        state: dict[str, Any] = vars(owner)
        return state
    if isinstance(owner, FunctionType):
        return {name: getattr(owner, name) for name in _OF_FUNCTIONS}
    if isinstance(owner, partial):
        return dict(zip(_OF_PARTIALS, owner.__reduce__()[2], strict=True))
    if isinstance(owner, CellType):
        try:
            return {"cell_contents": owner.cell_contents}
        except ValueError:  # not filled yet
            return {}
    if isinstance(owner, SlotsOf):
        return _attributes(owner.module, slots(type(owner.module)))
    names = vars(owner) if has_dict(owner) else ()
    return _attributes(owner, (*slots(type(owner)), *names))


def set_state(owner: Any, state: dict[str, Any]) -> None:
    """Replace all state of `owner`; where it has a `__dict__`, by `state` itself."""
    if has_own_dict(owner):
        object.__setattr__(owner, "__dict__", state)
        return
    if isinstance(owner, partial):
        owner.__setstate__(tuple(state.values()))  # type: ignore[attr-defined]
        return
    target = owner.module if isinstance(owner, SlotsOf) else owner
    for name in get_state(owner).keys() - state.keys():
        object.__delattr__(target, name)
    for name, value in state.items():
        object.__setattr__(target, name, value)


def has_dict(owner: Any) -> bool:
    """Whether `owner` has a `__dict__`; a `__getattr__` of the user's is not asked."""
    return bool(type(owner).__dictoffset__)


def has_own_dict(owner: Any) -> bool:
    """Whether all state of `owner` is in a `__dict__` that can be replaced."""
    answer = _OWN_DICT[type(owner)]
    return _has_own_dict(owner) if answer is None else answer


def _has_own_dict(owner: Any) -> bool:
    if isinstance(owner, (SimpleNamespace, FunctionType, partial, SlotsOf)) or not has_dict(owner):
        return False
    return isinstance(owner, nn.Module) or not slots(type(owner))


def _of_class(cls: type) -> bool | None:
    """As `_has_own_dict` of an object of `cls`; None: the object has to be asked."""
    if not shows_its_class(cls):
        return None
    if issubclass(cls, (SimpleNamespace, FunctionType, partial, SlotsOf)) or not cls.__dictoffset__:
        return False
    return issubclass(cls, nn.Module) or not slots(cls)


_OWN_DICT: PerClass[bool | None] = PerClass(_of_class)


def _attributes(owner: Any, names: tuple[str, ...]) -> dict[str, Any]:
    found = {}
    for name in names:
        with suppress(AttributeError):  # a slot that is empty
            found[name] = object.__getattribute__(owner, name)
    return found


def slots(cls: type) -> tuple[str, ...]:
    """The names of the slots of `cls`, inherited ones included."""
    return _slots(cls)


@lru_cache(maxsize=4096)
def _slots(cls: type) -> tuple[str, ...]:
    with_slots = [vars(base) for base in cls.__mro__ if "__slots__" in vars(base)]
    return tuple(
        name
        for attributes in with_slots
        for name, value in attributes.items()
        if isinstance(value, MemberDescriptorType)
    )
