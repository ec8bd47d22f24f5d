"""Optimizers without a law are refused in words; wrappers are taken off or refused."""

from __future__ import annotations

import doctest
import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

import curvwatch.stability
from curvwatch.stability import (
    LAWS,
    Law,
    NoLaw,
    Update,
    compute,
    register_law,
    stability_law,
    table,
)

optim = torch.optim
STILL = "step/stability_ratio still holds"


def param(*shape: int) -> torch.nn.Parameter:
    p = torch.nn.Parameter(torch.ones(*shape))
    p.grad = torch.full(shape, 0.1)
    return p


def refused(optimizer: object, **arguments: Any) -> str:
    law = stability_law(optimizer, **arguments)
    assert law.edge is None
    assert law.reason is not None
    assert all(entry is None for entry in law.preconditioner)
    assert len(law.preconditioner) == len(law.shift)
    return law.reason


@pytest.fixture
def registered() -> Iterator[None]:
    before = dict(LAWS)
    yield
    LAWS.clear()
    LAWS.update(before)


class Own(Optimizer):
    """An optimizer that torch does not know."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad.sign(), alpha=group["lr"])


def named(name: str, module: str = "elsewhere", **members: Any) -> Optimizer:
    return type(name, (Own,), {"__module__": module, **members})([param(3)])


# ---------------------------------------------------------------- no law


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: optim.ASGD([param(3)]), "ASGD scales its step by a schedule of its own"),
        (lambda: optim.Rprop([param(3)]), "Rprop moves by the sign of the gradient"),
        (lambda: optim.LBFGS([param(3)]), "LBFGS solves for a step with a Hessian estimate"),
        (lambda: optim.SparseAdam([param(3)]), "SparseAdam moves only the rows"),
        (lambda: optim.Muon([param(3, 3)]), "Muon orthogonalises its momentum"),
        (lambda: named("Lion"), "Lion moves by the sign of a momentum"),
        (lambda: named("SignSGD"), "SignSGD moves by the sign of a momentum"),
        (lambda: named("MuonWithAuxAdam"), "MuonWithAuxAdam orthogonalises its momentum"),
        (lambda: named("SOAP"), "SOAP preconditions by matrices"),
        (lambda: named("DistributedShampoo"), "DistributedShampoo preconditions by matrices"),
        (lambda: named("AdamWScheduleFree"), "takes gradients at an average of its iterates"),
        (lambda: named("SAM"), "SAM takes its gradient at perturbed weights"),
        (
            lambda: named("Perturbed", base_optimizer=optim.SGD([param(1)]), first_step=None),
            "Perturbed takes its gradient at perturbed weights",
        ),
        (lambda: Own([param(3)]), "Own is not in the table of laws"),
    ],
)
def test_refused_in_words(make: Any, words: str) -> None:
    reason = refused(make())
    assert words in reason
    assert STILL in reason


def test_subclasses_of_the_refused_are_refused_alike() -> None:
    class MyMuon(optim.Muon):
        pass

    assert "MyMuon orthogonalises" in refused(MyMuon([param(3, 3)]))


def test_a_name_is_not_an_identity() -> None:
    reason = refused(named("Adafactor", module="transformers.optimization"))
    assert "transformers.optimization.Adafactor has the name of torch.optim.Adafactor" in reason
    assert "register_law" in reason
    assert "Adam8bit is not in the table" in refused(named("Adam8bit", "bitsandbytes.optim"))
    assert "register_law" in refused(named("FusedAdam", "apex.optimizers"))


@pytest.mark.parametrize("cls", [optim.SGD, optim.Adagrad])
def test_sparse_gradients(cls: type) -> None:
    table_of_words = torch.nn.Embedding(5, 2, sparse=True)
    optimizer = cls(table_of_words.parameters(), lr=0.1)
    table_of_words(torch.tensor([1, 3])).sum().backward()
    with torch.sparse.check_sparse_tensor_invariants(True):  # torch warns unless told either way
        optimizer.step()
    reason = refused(optimizer)
    assert f"{cls.__name__} gets sparse gradients" in reason
    assert STILL in reason


def test_sparse_momentum_is_seen_after_the_gradient_is_gone() -> None:
    words = torch.nn.Embedding(5, 2, sparse=True)
    optimizer = optim.SGD(words.parameters(), lr=0.1, momentum=0.9)
    words(torch.tensor([1, 3])).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    assert "sparse gradients" in refused(optimizer)


def test_complex_parameters() -> None:
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))
    assert "SGD trains complex parameters" in refused(optim.SGD([p], lr=0.1))


def test_settings_without_an_edge() -> None:
    assert refused(optim.SGD([param(3)], lr=0.0)) == "learning rate is 0"
    assert refused(optim.SGD([param(3)], lr=float("inf"))) == "learning rate is inf"
    assert "momentum is 1.5" in refused(optim.SGD([param(3)], lr=0.1, momentum=1.5))
    assert "dampening is 1" in refused(optim.SGD([param(3)], lr=0.1, momentum=0.9, dampening=1.0))
    assert "weight decay 30 alone is past the edge 20" in refused(
        optim.SGD([param(3)], lr=0.1, weight_decay=30.0)
    )
    adamw = optim.AdamW([param(3)], lr=0.1, weight_decay=30.0)
    adamw.step()
    assert "lr 0.1 x weight decay 30 is 2 or more" in refused(adamw)
    no_eps = optim.Adam([param(3)], lr=0.1, eps=0.0)
    no_eps.step()
    no_eps.state[no_eps.param_groups[0]["params"][0]]["exp_avg_sq"][1] = 0.0
    assert "divides parameter 0 by zero or NaN" in refused(no_eps)


@pytest.mark.parametrize("cls", [cls for cls in LAWS if cls is not optim.SGD])
def test_adaptive_optimizers_wait_for_their_first_step(cls: type) -> None:
    optimizer = cls([param(3)], lr=0.1)
    assert refused(optimizer) == "no step taken yet"
    assert not stability_law(optimizer).is_identity or stability_law(optimizer).edge is None
    optimizer.step()
    assert stability_law(optimizer).edge is not None
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    assert refused(optimizer) == "learning rate is 0"


def test_parameters_of_others() -> None:
    optimizer = optim.SGD([param(3)], lr=0.1)
    assert refused(optimizer, params=[param(2)]) == ("this optimizer trains none of the parameters")


def test_what_is_no_optimizer_is_an_error() -> None:
    optimizer = optim.SGD([param(3)], lr=0.1)
    optimizer.step()
    schedule = optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.raises(TypeError, match=r"got StepLR; pass its \.optimizer"):
        stability_law(schedule)
    with pytest.raises(TypeError, match="got Linear"):
        stability_law(torch.nn.Linear(1, 1))


# ---------------------------------------------------------------- subclasses


def test_a_subclass_with_its_parents_step_has_its_parents_law() -> None:
    class Tuned(optim.Adam):
        def __init__(self, params: Any) -> None:
            super().__init__(params, lr=0.05, betas=(0.5, 0.9))

    optimizer = Tuned([param(3)])
    optimizer.step()
    law = stability_law(optimizer)
    assert law.edge == pytest.approx(6 / 0.05)
    assert law.optimizer == "Tuned"


def test_a_subclass_with_a_step_of_its_own_has_none() -> None:
    class Sign(optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad = p.grad.sign()
            super().step(closure)

    reason = refused(Sign([param(3)], lr=0.1))
    assert "Sign overrides the step of SGD" in reason
    assert "register_law" in reason


def test_a_subclass_that_hides_behind_wraps_has_none() -> None:
    class Sign(optim.SGD):
        @functools.wraps(optim.SGD.step)
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for p in group["params"]:
                    p.sub_(p.grad.sign())

    assert "Sign overrides the step of SGD" in refused(Sign([param(3)], lr=0.1))


def test_a_step_patched_on_the_instance_has_none() -> None:
    optimizer = optim.SGD([param(3)], lr=0.1)
    optim.lr_scheduler.StepLR(optimizer, 1)  # patches it too, and harmlessly
    assert stability_law(optimizer).edge == pytest.approx(20)
    original = optimizer.step

    @functools.wraps(original)
    def doubled(closure: Any = None) -> Any:
        original(closure)
        return original(closure)

    optimizer.step = doubled  # type: ignore[method-assign]
    assert "SGD overrides the step of SGD" in refused(optimizer)


def test_a_compiled_step_is_the_same_step() -> None:
    optimizer = optim.SGD([param(3)], lr=0.1)
    optimizer.step = torch.compile(optimizer.step, backend="eager")  # type: ignore[method-assign]
    assert stability_law(optimizer).edge == pytest.approx(20)


# ---------------------------------------------------------------- wrappers


def test_lightning_wrappers_are_taken_off() -> None:
    core = pytest.importorskip("lightning.pytorch.core.optimizer")
    old = pytest.importorskip("pytorch_lightning.core.optimizer")
    fabric = pytest.importorskip("lightning.fabric.wrappers")
    for wrap in (
        core.LightningOptimizer,
        old.LightningOptimizer,
        lambda inner: fabric._FabricOptimizer(inner, strategy=None),
    ):
        inner = optim.Adam([param(3)], lr=0.1)
        inner.step()
        law = stability_law(wrap(inner))
        assert law.edge == pytest.approx(380)
        assert law.optimizer == "Adam"
        assert "Lion" in refused(wrap(named("Lion")))


@pytest.mark.parametrize("name", ["SWA", "EMAOptimizer", "AcceleratedOptimizer"])
def test_averages_and_accumulation_do_not_change_the_step(name: str) -> None:
    inner = optim.SGD([param(3)], lr=0.1, momentum=0.5)
    wrapper = named(name, optimizer=inner)
    assert stability_law(wrapper).edge == pytest.approx(30)


def test_an_unknown_wrapper_is_not_looked_through() -> None:
    reason = refused(named("Lookahead", optimizer=optim.SGD([param(3)], lr=0.1)))
    assert "Lookahead wraps SGD and may change its step" in reason
    assert "pass the inner optimizer" in reason


# ---------------------------------------------------------------- the user's own


def own_update(p: Tensor, group: Any, state: Any) -> Update:
    if group["lr"] > 1:
        raise NoLaw("lr above 1")
    return Update(lr=group["lr"], response=0.5)


OWN = Law(update=own_update, formula="edge = 4/lr", reference="me", holds="always")


@pytest.mark.usefixtures("registered")
def test_a_registered_law_counts() -> None:
    register_law(Own, OWN)
    law = stability_law(Own([param(3)], lr=0.1))
    assert law.edge == pytest.approx(40)
    assert law.source == "edge = 4/lr; always; me"
    assert refused(Own([param(3)], lr=2.0)) == "lr above 1"

    class Renamed(Own):
        pass

    class Stepped(Own):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            super().step(closure)

    assert stability_law(Renamed([param(3)], lr=0.1)).edge == pytest.approx(40)
    assert "Stepped overrides the step of Own" in refused(Stepped([param(3)], lr=0.1))
    assert stability_law(named("Lion")).edge == pytest.approx(40)  # a subclass of Own


@pytest.mark.usefixtures("registered")
def test_a_registered_wrapper_goes_before_what_it_wraps() -> None:
    inner = optim.SGD([param(3)], lr=0.1)
    wrapper = named("Lookahead", optimizer=inner)
    register_law(type(wrapper), OWN)
    assert stability_law(wrapper).edge == pytest.approx(40)


def test_register_law_checks_what_it_is_given() -> None:
    with pytest.raises(TypeError, match="takes the optimizer's class, got an instance"):
        register_law(Own([param(3)]), OWN)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"takes a curvwatch\.stability\.Law, got function"):
        register_law(Own, own_update)  # type: ignore[arg-type]
    assert Own not in LAWS


def test_every_law_names_its_source() -> None:
    for law in LAWS.values():
        assert "edge" in law.formula
        assert "P" in law.formula
        assert law.reference
        assert law.formula in law.source


@pytest.mark.usefixtures("registered")
def test_examples_in_the_docstrings() -> None:
    modules = (curvwatch.stability, compute, table, curvwatch.stability.law)
    results = [doctest.testmod(module, extraglobs={"torch": torch}) for module in modules]
    assert sum(result.attempted for result in results) > 5
    assert not any(result.failed for result in results)
