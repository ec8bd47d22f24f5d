"""Copies of batches: everything is copied that can be, nothing of the user's is written to."""

from __future__ import annotations

import threading
from collections import OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import proxy

import pytest
import torch
from torch import Tensor

from curvwatch.objective.isolation.containers import clone_batch, map_containers


class Store(MutableMapping):
    """A mapping that keeps its items where nobody knows."""

    def __init__(self, items: dict[str, Any]) -> None:
        self._items = items

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._items[key] = value

    def __delitem__(self, key: str) -> None:
        del self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


class Frozen(dict):
    def __setitem__(self, key: str, value: Any) -> None:
        raise TypeError("it is frozen")


class Dotted(dict):
    __getattr__ = dict.__getitem__


class Sized(OrderedDict):
    """Made in a way of its own, which copies do not know."""

    def __init__(self, items: dict[str, Any], size: int) -> None:
        super().__init__(items)
        self.size = size


class Grouped(defaultdict):
    def __init__(self, items: dict[str, Any]) -> None:
        super().__init__(list, items)


class Drawn(tuple):
    def __new__(cls, *parts: Any) -> Drawn:
        return super().__new__(cls, parts)


class Pair(NamedTuple):
    x: Any
    y: Any


class Noted(list):
    """With attributes beside its items."""


@dataclass(frozen=True)
class Example:
    x: Any
    y: Any


class Thing:
    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y


def noted(x: Tensor, y: Tensor) -> Noted:
    value = Noted([x])
    value.note = [y]
    return value


# how to make it of two tensors, and how to take them out
KINDS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any], tuple[Any, Any]]]] = {
    "dict": (lambda x, y: {"x": x, "y": y}, lambda v: (v["x"], v["y"])),
    "Store": (lambda x, y: Store({"x": x, "y": y}), lambda v: (v["x"], v["y"])),
    "Frozen": (lambda x, y: Frozen(x=x, y=y), lambda v: (v["x"], v["y"])),
    "Dotted": (lambda x, y: Dotted(x=x, y=y), lambda v: (v.x, v.y)),
    "Sized": (lambda x, y: Sized({"x": x, "y": y}, 2), lambda v: (v["x"], v["y"])),
    "Grouped": (lambda x, y: Grouped({"x": x, "y": y}), lambda v: (v["x"], v["y"])),
    "UserDict": (lambda x, y: UserDict({"x": x, "y": y}), lambda v: (v["x"], v["y"])),
    "UserList": (lambda x, y: UserList([x, y]), tuple),
    "deque": (lambda x, y: deque([x, y], maxlen=2), tuple),
    "Noted": (noted, lambda v: (v[0], v.note[0])),
    "Drawn": (Drawn, tuple),
    "Pair": (Pair, tuple),
    "torch.return_types": (lambda x, y: torch.return_types.max([x, y]), tuple),
    "Example": (Example, lambda v: (v.x, v.y)),
    "Thing": (Thing, lambda v: (v.x, v.y)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_clone_has_the_same_type_and_tensors_of_its_own(kind: str) -> None:
    make, parts = KINDS[kind]
    x, y = torch.zeros(2), torch.ones(2)
    batch = make(x, y)
    clone = clone_batch(batch)
    assert type(clone) is type(batch)
    for original, copy in zip((x, y), parts(clone), strict=True):
        assert copy is not original
        assert torch.equal(copy, original)
        copy.add_(5)
    assert all(a is b for a, b in zip(parts(batch), (x, y), strict=True))
    assert (x.tolist(), y.tolist()) == ([0, 0], [1, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_that_is_in_a_batch_twice_is_so_in_the_clone(kind: str) -> None:
    make, parts = KINDS[kind]
    x = torch.zeros(2)
    inner, outer = clone_batch([make(x, x), x])
    first, second = parts(inner)
    assert first is second
    assert first is outer
    assert first is not x


@pytest.mark.parametrize("kind", ["Thing", "Example", "Store"])
def test_an_object_that_is_in_a_batch_twice_is_so_in_the_clone(kind: str) -> None:
    value = KINDS[kind][0](torch.zeros(2), torch.ones(2))
    first, second = clone_batch((value, [value]))
    assert first is second[0]
    assert first is not value


def test_the_kind_of_a_container_is_kept() -> None:
    grouped = clone_batch(Grouped({"x": torch.zeros(2)}))
    assert grouped["new"] == []
    assert clone_batch(deque([1, 2], maxlen=2)).maxlen == 2
    moved = OrderedDict(a=1, b=2)
    moved.move_to_end("a")
    assert list(clone_batch(moved)) == ["b", "a"]
    assert clone_batch(Sized({}, 3)).size == 3


def test_what_cannot_be_copied_is_kept() -> None:
    lock, thing = threading.Lock(), Thing(1, 2)
    stands_for_it = proxy(thing)
    clone = clone_batch({"lock": lock, "proxy": stands_for_it, "x": [1]})
    assert clone["lock"] is lock
    assert clone["proxy"] is stands_for_it
    del thing
    assert clone_batch([stands_for_it])[0] is stands_for_it


class Live(list):
    """Still being filled: its copies are itself."""

    def __copy__(self) -> Live:
        return self


def test_a_list_that_says_it_is_its_own_copy_stays_itself() -> None:
    live = Live([1])
    assert clone_batch([live])[0] is live


class Unclonable:
    def clone(self) -> Unclonable:
        raise MemoryError("no room")


def test_a_clone_that_fails_is_not_passed_over() -> None:
    """As one that runs out of memory: training would change what a reading has kept."""
    with pytest.raises(MemoryError, match="no room"):
        clone_batch([Unclonable()])


def test_a_mapping_with_a_store_of_its_own_is_a_leaf() -> None:
    store = Store({"x": 1})
    assert map_containers([store], lambda v: v)[0] is store
    assert map_containers([store], lambda v: "leaf") == ["leaf"]
    assert dict(store) == {"x": 1}
