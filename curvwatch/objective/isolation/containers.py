"""Batches: nested containers of tensors, copied and sized."""

from __future__ import annotations

import copy
import dataclasses
from collections import ChainMap, OrderedDict, UserDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from operator import is_
from typing import Any
from weakref import ProxyTypes

from torch import Tensor

from curvwatch.errors import CurvwatchError
from curvwatch.objective.isolation.object_state import (
    PerClass,
    get_state,
    set_state,
    shows_its_class,
)

_LEAVES = (Tensor, str, int, float, type(None))
# of these very classes an object has items and nothing else
_PLAIN = frozenset({dict, defaultdict, list, tuple, set, frozenset, deque})
# the special ones before the general
CONTAINERS = (tuple, OrderedDict, defaultdict, dict, list, deque, set, UserDict)
# what stands for a class of values beside the container that it is
_KEPT, _LEAF, _OTHER, _ASK = "kept", "leaf", "other", "ask"


def map_containers(
    value: Any,
    leaf: Callable[[Any], Any],
    copies: dict[int, Any] | None = None,
    *,
    is_leaf: Callable[[Any], bool] | None = None,
) -> Any:
    """Copy nested containers of `value`, each leaf replaced by `leaf(it)`.

    Containers are dicts, UserDicts, lists, tuples, namedtuples, deques and sets, subclasses included;
    their types, and what else they hold, are kept. Items are taken and given without the methods of
    subclasses, so frozen ones are copied, too. Another mapping is a leaf: nobody knows where it has its
    items. A tuple whose leaves stay the same is not copied, nor a list whose `__copy__` gives itself.
    One container in several places has one copy, also over several calls with the same `copies`, from
    `id` to copy. What `is_leaf` says is one is not looked into.
    """
    return ContainerMap(leaf, {} if copies is None else copies, is_leaf=is_leaf)(value)


class ContainerMap:
    """`map_containers` as a function of the value alone.

    Args:
        leaf: see `map_containers`, and so the others.
        copies: from `id` to copy.
        is_leaf: what is not looked into.
        stay: whether `leaf` gives back each object of a class: it is not called for these.
    """

    def __init__(
        self,
        leaf: Callable[[Any], Any],
        copies: dict[int, Any],
        *,
        is_leaf: Callable[[Any], bool] | None = None,
        stay: PerClass[bool] | None = None,
    ) -> None:
        self._leaf = leaf
        self._copies = copies
        self._is_leaf = is_leaf
        self._stay = _NONE_STAYS if stay is None else stay

    def __call__(self, value: Any) -> Any:
        """The copy of `value`."""
        base = _BASES[type(value)]
        if base is _ASK:
            base = _base(type(value), partial(isinstance, value))
        if base is _LEAF:  # most are: look no further
            return self._leaf(value)
        if base is _KEPT:
            return value
        if self._is_leaf is not None and self._is_leaf(value):
            return self._leaf(value)
        if id(value) in self._copies:
            return self._copies[id(value)]
        if type(value) is OrderedDict and not value and not vars(value):  # most are, as of hooks
            new = self._copies[id(value)] = OrderedDict()
            return new
        if base is _OTHER:
            return self._leaf(value)
        if base is tuple:
            return self._tuple(value)
        if base is list and _is_its_own_copy(value):
            return value
        try:
            new = self._copies[id(value)] = base.__new__(type(value))
        except TypeError:  # a compiled class that has more to fill
            return self._leaf(value)
        self._fill(new, value, base)
        return new

    def _fill(self, new: Any, value: Any, base: Any) -> None:
        """Give `new` the items and attributes of `value`, by the methods of `base` alone."""
        stay = self._stay
        if base is UserDict:
            set_state(new, {**vars(value), "data": self(vars(value).get("data"))})
            return
        if base is dict or base is OrderedDict or base is defaultdict:
            if base is defaultdict:
                base.__init__(new, value.default_factory)
            if dict.__len__(value):
                put = base.__setitem__
                for k, v in base.items(value):
                    put(new, k, v if stay[type(v)] else self(v))
        elif base is set:
            base.update(new, value)
        else:
            if base is deque:
                base.__init__(new, (), value.maxlen)
            for v in base.__iter__(value):
                base.append(new, v if stay[type(v)] else self(v))
        if type(value) not in _PLAIN and (type(value) is not OrderedDict or vars(value)):
            _give_attributes(new, self._attributes(value))

    def _tuple(self, value: tuple[Any, ...]) -> Any:
        stay = self._stay
        parts = [v if stay[type(v)] else self(v) for v in tuple.__iter__(value)]
        attributes = {} if type(value) is tuple else self._attributes(value)
        if all(map(is_, parts, value)) and all(
            new is get_state(value)[name] for name, new in attributes.items()
        ):
            return value
        try:
            new = tuple.__new__(type(value), parts)
        except TypeError:  # a compiled class, as of torch.return_types
            return type(value)(parts)
        _give_attributes(new, attributes)
        return new

    def _attributes(self, value: Any) -> dict[str, Any]:
        return {name: self(v) for name, v in get_state(value).items()}


def _base(cls: Any, is_a: Callable[[Any], bool]) -> Any:
    """Which container a value of `cls`, an instance of what `is_a` says, is; or what it is else."""
    if cls in ProxyTypes:  # passes for what it stands for, and raises once that is gone
        return _KEPT
    if is_a(_LEAVES):
        return _LEAF
    return next((base for base in CONTAINERS if is_a(base)), _OTHER)


def _base_of_class(cls: type) -> Any:
    if cls not in ProxyTypes and not shows_its_class(cls):
        return _ASK
    return _base(cls, partial(issubclass, cls))


_BASES: PerClass[Any] = PerClass(_base_of_class)
_NONE_STAYS = PerClass(lambda cls: False)


def _is_its_own_copy(value: Any) -> bool:
    """Whether its class says so, as of a list that is still being filled."""
    own_copy = getattr(type(value), "__copy__", None)
    return own_copy is not None and own_copy(value) is value


def _give_attributes(new: Any, attributes: dict[str, Any]) -> None:
    if attributes:
        set_state(new, attributes)


def clone_batch(batch: Any) -> Any:
    """A copy of `batch` that the user's code may change in place.

    Tensors are cloned, dataclasses copied field by field; objects with a `clone` method (PyTorch
    Geometric's Data) clone themselves; other objects are copied deeply, or kept where that is
    impossible. What is in the batch twice is in the copy twice.
    """
    return _Cloner().map(batch)


class _Cloner:
    """Makes one clone of each value."""

    def __init__(self) -> None:
        self._copies: dict[int, Any] = {}
        # `deepcopy` keeps alive in them what it knows by its id
        self._memos: list[Any] = []

    def map(self, value: Any) -> Any:
        return map_containers(value, self._clone, self._copies)

    def _clone(self, value: Any) -> Any:
        if isinstance(value, (str, bytes, int, float, type(None), type)):
            return value
        if id(value) not in self._copies:
            self._copies[id(value)] = self._new(value)
        return self._copies[id(value)]

    def _new(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach().clone().requires_grad_(value.requires_grad)
        if callable(getattr(type(value), "clone", None)):
            return value.clone()
        if dataclasses.is_dataclass(value):
            new = self._copies[id(value)] = copy.copy(value)
            for f in dataclasses.fields(value):
                if hasattr(value, f.name):
                    object.__setattr__(new, f.name, self.map(getattr(value, f.name)))
            return new
        memo: ChainMap[int, Any] = ChainMap({}, self._copies)
        try:
            new = copy.deepcopy(value, memo)  # type: ignore[arg-type]  # a mapping is enough
        except Exception:  # an open file, a lock: nothing that a training step changes
            return value
        self._memos.append(memo)
        self._copies.update(memo.maps[0])
        return new


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Each tensor in nested containers, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for v in value.values():
            yield from tensors_in(v)
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        for v in value:
            yield from tensors_in(v)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for f in dataclasses.fields(value):
            yield from tensors_in(getattr(value, f.name, None))
    elif callable(getattr(value, "to_dict", None)):  # PyTorch Geometric's Data
        yield from tensors_in(value.to_dict())


def slice_batch(batch: Any, start: int, stop: int) -> Any:
    """The examples from `start` to `stop` of `batch`, its tensors cut along their first dimension.

    Cut are tensors whose first dimension is `batch_size(batch)`, and lists and tuples of that length
    that hold no such tensor (texts, boxes); all else stays whole. Tensors share their memory.

    Raises:
        CurvwatchError: there are tensors in an object that is no container.
    """
    size = batch_size(batch)

    def is_per_example(value: Any) -> bool:
        return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == size

    def lists_examples(value: Any) -> bool:
        return (
            type(value) in (list, tuple)
            and len(value) == size
            and not any(map(is_per_example, tensors_in(value)))
        )

    def cut(value: Any) -> Any:
        if is_per_example(value) or lists_examples(value):
            return value[start:stop]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            new = copy.copy(value)
            for f in dataclasses.fields(value):
                if hasattr(value, f.name):
                    part = map_containers(getattr(value, f.name), cut, is_leaf=lists_examples)
                    object.__setattr__(new, f.name, part)
            return new
        if not isinstance(value, Tensor) and next(tensors_in(value), None) is not None:
            raise CurvwatchError(f"a {type(value).__name__} cannot be split into examples")
        return value

    return map_containers(batch, cut, is_leaf=lists_examples)


def batch_size(batch: Any) -> int:
    """Number of examples: the first dimension of the first tensor, as Lightning counts them."""
    for t in tensors_in(batch):
        if t.ndim:
            return int(t.shape[0])
    return 1
