"""The graph of a module is walked once, and found again as long as it is the same."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from curvwatch.objective.isolation.isolate import ModuleState, isolated
from curvwatch.objective.isolation.object_graph import KeptGraph, ObjectGraph


class Counter:
    def __init__(self) -> None:
        self.seen = [0]


class SlottedLinear(nn.Linear):
    __slots__ = ("mark",)


class Holder(nn.Module):
    tally: dict[str, int]

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.counter = Counter()
        self.nested = {"deep": [{"list": [1]}]}
        self.empty: list[Any] = []
        self.plain = torch.zeros(2)
        self.trained = torch.zeros(2, requires_grad=True)
        self.register_buffer("mean", torch.zeros(2))
        self.step = 0


def _changed_class(m: Holder) -> None:
    m.layer.__class__ = type("Other", (nn.Linear,), {"cache": {}})


CHANGES: dict[str, Callable[[Holder], object]] = {
    "a new submodule": lambda m: setattr(m, "more", nn.Linear(1, 1)),
    "another submodule": lambda m: setattr(m, "layer", nn.Linear(2, 2)),
    "no submodule": lambda m: delattr(m, "layer"),
    "another weight": lambda m: setattr(m.layer, "weight", nn.Parameter(torch.ones(2, 2))),
    "a frozen tensor that is trained": lambda m: m.plain.requires_grad_(),
    "a buffer that is trained": lambda m: m.mean.requires_grad_(),
    "a trained tensor that is frozen": lambda m: m.trained.requires_grad_(False),
    "another object": lambda m: setattr(m, "counter", Counter()),
    "a number that becomes an object": lambda m: setattr(m, "step", Counter()),
    "an object in a container": lambda m: m.nested["deep"][0]["list"].append(Counter()),
    "an object in an empty list": lambda m: m.empty.append(Counter()),
    "an attribute of an object": lambda m: setattr(m.counter, "extra", Counter()),
    "a hook": lambda m: m.layer.register_forward_hook(partial(lambda *_: None)),
    "an attribute of an empty container": lambda m: setattr(m._forward_hooks, "owner", Counter()),
    "a generator": lambda m: setattr(m, "draws", torch.Generator()),
    "another class": _changed_class,
    "a container of the class": lambda m: setattr(type(m), "tally", {"steps": 0}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_of_what_the_module_is_made_of_is_found(change: Callable[[Holder], object]) -> None:
    module = type("Own", (Holder,), {})()  # its class may change
    kept = KeptGraph(module)
    before = kept.current()
    assert before.is_light
    assert kept.current() is before
    change(module)
    after, fresh = kept.current(), ObjectGraph(module)
    assert after is not before
    assert list(map(id, after.weights)) == list(map(id, fresh.weights))
    assert list(map(id, after.generators)) == list(map(id, fresh.generators))
    assert list(map(type, after.owners)) == list(map(type, fresh.owners))


def _train(m: Holder) -> None:
    m.step += 1
    m.plain = m.plain + 1
    m.mean = m.mean + 1
    m.counter.seen[0] += 1
    m.note = "new"


def test_what_training_changes_at_each_step_takes_no_walk() -> None:
    module = Holder()
    kept = KeptGraph(module)
    before = kept.current()
    _train(module)
    assert kept.current() is before


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_a_change_brought_is_put_back(change: Callable[[Holder], object]) -> None:
    module = type("Own", (Holder,), {})()
    kept = KeptGraph(module)
    kept.current()
    change(module)
    states = {id(o): (o, dict(s)) for o, s in ModuleState.of(module).states}
    with isolated(module, kept) as lent:
        lent.load({})
        for owner, _ in states.values():
            if isinstance(owner, (nn.Module, Counter)):
                owner.__dict__["spoilt"] = True
    for owner, state in states.values():
        if isinstance(owner, (nn.Module, Counter)):
            assert "spoilt" not in vars(owner)
            assert vars(owner).keys() == state.keys()


LARGE = [lambda: torch.ones(2**19), lambda: torch.ones(2, requires_grad=True) * 2]


@pytest.mark.parametrize("make", LARGE)
def test_large_results_on_a_module_are_let_go(make: Callable[[], Tensor]) -> None:
    module = Holder()
    module.empty.append(make())
    kept = KeptGraph(module)
    kept.current()
    result = weakref.ref(module.empty[0])
    module.empty = []
    gc.collect()
    assert result() is None
