"""Where a module may keep what it remembers: stores of every kind, and what is none."""

from __future__ import annotations

import importlib
import logging
import sys
import sysconfig
import threading
from argparse import Namespace
from array import array
from collections import ChainMap, UserDict, UserList
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import PriorityQueue, Queue
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, proxy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from curvwatch import CurvatureMonitor
from curvwatch.objective.isolation.isolate import isolated
from curvwatch.objective.isolation.object_graph import ObjectGraph, has_memory
from tests.objective.test_containers import Dotted, Drawn, Frozen, Noted, Store
from tests.support.modules import Classifier, batches, fit, told
from tests.support.studies import without
from tests.training.lightning.test_no_trace_modules import compare


class Key:
    """What a weak dictionary may be keyed by."""


KEY = Key()


def add_one(store: Any) -> int:
    store["n"] += 1
    return store["n"]


def add_one_in(store: Any) -> int:
    store["n"].append(1)
    return len(store["n"])


def append_one(store: Any) -> int:
    store.append(1)
    return len(store)


def put_one(store: Any) -> int:
    store.put(1)
    return store.qsize()


def add_to_attribute(store: Any) -> int:
    store.note.append(1)
    return len(store.note)


def add_to_key(store: Any) -> int:
    store[KEY] = store.get(KEY, 0) + 1
    return store[KEY]


def add_to_set(store: WeakSet[Any]) -> int:
    keys = [k for k in KEYS if k not in store]
    store.add(keys[0])
    return len(store)


KEYS = [Key() for _ in range(8)]


def with_note(store: Any) -> Any:
    store.note = []
    return store


# how to make it, and how to count the steps in it
STORES: dict[str, tuple[Callable[[], Any], Callable[[Any], int]]] = {
    "Store": (lambda: Store({"n": 0}), add_one),
    "Dotted": (lambda: Dotted(n=0), add_one),
    "Frozen": (lambda: Frozen(n=[]), add_one_in),
    "UserDict": (lambda: UserDict(n=0), add_one),
    "ChainMap": (lambda: ChainMap({}, {"n": 0}), add_one),
    "UserList": (UserList, append_one),
    "bytearray": (bytearray, append_one),
    "array": (lambda: array("i"), append_one),
    "Queue": (Queue, put_one),
    "PriorityQueue": (PriorityQueue, put_one),
    "WeakKeyDictionary": (WeakKeyDictionary, add_to_key),
    "WeakSet": (WeakSet, add_to_set),
    "Namespace": (lambda: Namespace(note=[]), add_to_attribute),
    "attribute of a list": (lambda: with_note(Noted()), add_to_attribute),
    "attribute of a dict": (lambda: with_note(Frozen()), add_to_attribute),
    "attribute of a UserDict": (lambda: with_note(UserDict()), add_to_attribute),
    "attribute of a tuple": (lambda: with_note(Drawn(1, 2)), add_to_attribute),
}


class Keeps(Classifier):
    """The loss depends on how many steps were counted."""

    def __init__(self, store: Any, count: Callable[[Any], int]) -> None:
        super().__init__()
        self.store, self.count = store, count

    def loss(self, batch: Any) -> Tensor:
        return super().loss(batch) * (1 + 0.1 * self.count(self.store))


class KeepsInSlots(Classifier):
    __slots__ = ("seen", "steps")

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.seen: list[float] = []

    def loss(self, batch: Any) -> Tensor:
        self.steps += 1
        self.seen.append(0.0)
        return super().loss(batch) * (1 + 0.1 * (self.steps + len(self.seen)))


def check(make: Callable[[], Classifier]) -> Classifier:
    """Bits with and without a monitor; it has values, and nothing to tell."""
    with told() as warnings:
        monitor, module, *_ = compare(make)
    assert not warnings
    assert not monitor.history.notes
    for metric in ("curvature/sharpness", "step/loss_change"):
        steps, values = monitor.history[metric]
        assert steps.tolist() == [0, 1, 2, 3]
        assert np.isfinite(values).all()
    return module


# kept as another one is: a subclass, or one that holds its values alike
LIKE_ANOTHER = (
    "Dotted",
    "UserList",
    "array",
    "PriorityQueue",
    "WeakSet",
    "attribute of a list",
    "attribute of a UserDict",
)


@pytest.mark.parametrize("name", without(STORES, leave=LIKE_ANOTHER))
def test_a_store_of_the_module_is_left_as_it_was(name: str) -> None:
    make, count = STORES[name]
    module = check(lambda: Keeps(make(), count))
    assert count(module.store) == 5  # after four steps


def test_slots_of_a_module_are_left_as_they_were() -> None:
    module = check(KeepsInSlots)
    assert (module.steps, len(module.seen)) == (4, 4)


def test_a_slot_that_is_filled_or_emptied_on_loan_is_not_so_after() -> None:
    module = KeepsInSlots()
    del module.seen
    with isolated(module) as loan:
        loan.load({})
        module.seen = [1.0]
        del module.steps
    assert not hasattr(module, "seen")
    assert module.steps == 0


class Tied(Classifier):
    """A weight that hangs on a mapping with a store of its own, too."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store({"w": self.net[0].weight})

    def loss(self, batch: Any) -> Tensor:
        return super().loss(batch) + 0.1 * self.store["w"].square().sum()


def test_a_weight_in_a_store_is_still_the_parameter() -> None:
    module = check(Tied)
    assert module.store["w"] is module.net[0].weight
    assert type(module.store["w"]) is nn.Parameter


class Part:
    """Of a module, and knows it by a proxy."""

    def __init__(self, whole: nn.Module) -> None:
        self.whole = proxy(whole)
        self.calls = 0

    def scale(self) -> float:
        self.calls += 1
        return 1 + 0.1 * self.calls * self.whole.size


class KnownByProxy(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.size = 0.5
        self.part = Part(self)

    def loss(self, batch: Any) -> Tensor:
        return super().loss(batch) * self.part.scale()


def test_a_proxy_is_left_alone() -> None:
    check(KnownByProxy)


def test_a_proxy_of_what_is_gone_does_no_harm() -> None:
    module = nn.Module()
    gone = proxy(Key())
    module.parts = [gone]
    with isolated(module) as loan:
        loan.load({})
        assert module.parts[0] is gone


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    """A class of a user's package that has the name of a module of the standard library."""
    (tmp_path / "sched").mkdir()
    (tmp_path / "sched" / "__init__.py").touch()
    (tmp_path / "sched" / "mem.py").write_text("class Bank:\n    n = 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("sched", "sched.mem"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module("sched.mem").Bank
    for name in ("sched", "sched.mem"):
        del sys.modules[name]


def test_a_package_with_a_name_of_the_standard_library_is_the_users(bank: type) -> None:
    def count(store: Any) -> int:
        store.n += 1
        return store.n

    assert check(lambda: Keeps(bank(), count)).store.n == 4


@pytest.mark.parametrize(("folder", "expected"), [("site-packages/sched", True), ("sched", False)])
def test_what_is_installed_is_not_of_the_standard_library(
    folder: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Site-packages may lie within the folder of the standard library."""
    module = ModuleType("sched")
    module.__file__ = str(Path(sysconfig.get_path("stdlib")) / folder / "__init__.py")
    monkeypatch.setitem(sys.modules, "sched", module)
    bank = type("Bank", (), {"__module__": "sched.mem"})
    assert has_memory(bank()) is expected


def test_services_of_the_standard_library_are_left_alone() -> None:
    module = nn.Module()
    module.services = [
        threading.Lock(),
        threading.Condition(),
        threading.Thread(),
        logging.getLogger("of a module"),
        Path(),
    ]
    assert [type(owner) for owner in ObjectGraph(module).owners] == [nn.Module]


class MyMonitor(CurvatureMonitor):
    """As a user may derive it."""


class Monitored(Classifier):
    """Holds its monitor, and can be differentiated but once."""

    def __init__(self, monitor: CurvatureMonitor) -> None:
        super().__init__()
        self.monitor = monitor

    def configure_callbacks(self) -> list[CurvatureMonitor]:
        return [self.monitor]

    def loss(self, batch: Any) -> Tensor:
        logits = self.net(batch[0])
        return super().loss(batch) + 0.1 * torch.cdist(logits, logits).sum()


@pytest.mark.parametrize("cls", [CurvatureMonitor, MyMonitor])
def test_a_monitor_that_the_module_holds_is_none_of_its_memory(cls: type[CurvatureMonitor]) -> None:
    monitor = cls(every_n_steps=1)
    module = Monitored(monitor)
    assert not any(owner is monitor for owner in ObjectGraph(module).owners)
    with told() as warnings:
        fit(module, data=batches(16))
    assert len(warnings) == 1  # of the same cause, at each of four steps
    assert "cdist" in warnings[0]
