"""How much work readings of a small network make beside its gradients, counted."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from curvwatch import StepGeometry, Watch
from curvwatch.objective import memory
from curvwatch.objective.isolation.containers import ContainerMap
from curvwatch.objective.isolation.isolate import ModuleState
from curvwatch.objective.isolation.object_graph import ObjectGraph

READINGS = 6


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Calls by name."""
    counts: Counter[str] = Counter()

    def count(owner: Any, name: str, called: str) -> None:
        original = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            counts[called] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    count(ObjectGraph, "__init__", "walks")
    count(ModuleState, "copied", "copies")
    count(ContainerMap, "__call__", "values")
    return counts


def _train() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = SGD(model.parameters(), lr=0.1)
    measure = StepGeometry(curvature="secant", every_n_steps=1)
    watch = Watch(
        model, optimizer, lambda m, b: m(b).square().mean(), measures=[measure], on_error="raise"
    )
    for _ in range(READINGS):
        batch = torch.randn(4, 8)
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
        watch.step(batch)


def test_readings_of_a_step_share_one_walk(work: Counter[str]) -> None:
    _train()
    # the hooks that a first step finds or leaves may take one more
    assert work["walks"] <= 2, dict(work)


def test_a_reading_copies_the_module_for_what_it_keeps_and_once_for_each_gradient(
    work: Counter[str],
) -> None:
    _train()
    # kept: as it is before the step, and in its forward pass; then the gradients
    assert work["copies"] <= 5 * READINGS + 1, dict(work)


def test_values_that_stay_as_they_are_take_no_call(work: Counter[str]) -> None:
    containers, weights, layers = 14, 2, 6
    _train()
    # strings, numbers and flags are looked up by their class
    assert work["values"] <= work["copies"] * layers * (containers + weights + 2), dict(work)


def test_memory_is_given_back_only_where_much_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        trims = 0

        def malloc_trim(self, pad: int) -> None:
            self.trims += 1

    library = Library()
    monkeypatch.setattr(memory, "_c_library", lambda: library)
    for free, trims in ((0, 0), (memory._LITTLE, 0), (memory._LITTLE + 1, 1)):
        monkeypatch.setattr(memory, "_kept_free", lambda free=free: free)
        memory.release_free_memory()
        assert library.trims == trims
