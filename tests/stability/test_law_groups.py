"""What the law reports for groups, schedules, clipping, variants and precisions."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from curvwatch.stability import (
    LAWS,
    Law,
    StabilityLaw,
    Update,
    register_law,
    stability_law,
)
from tests.stability.stability_harness import gradients, groups_of

optim = torch.optim
SHAPES = [(3, 4), (5,)]


def make_params(
    dtype: torch.dtype = torch.float32, device: str = "cpu", shapes: Any = SHAPES
) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.full(s, 0.5, dtype=dtype, device=device)) for s in shapes]


def stepped(optimizer: torch.optim.Optimizer, steps: int = 4) -> StabilityLaw:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for each in gradients(steps, [tuple(p.shape) for p in params]):
        for param, gradient in zip(params, each, strict=True):
            param.grad = gradient.to(param)
        optimizer.step()
    return stability_law(optimizer)


# ---------------------------------------------------------------- groups


def test_sgd_with_one_edge_is_the_plain_sharpness() -> None:
    a, b = make_params()
    settings = [{"lr": 0.1, "weight_decay": 1.5}, {"lr": 0.1, "weight_decay": 1.5}]
    law = stability_law(optim.SGD(groups_of([a, b], settings)))
    assert law.edge == pytest.approx(20 - 1.5)
    assert law.preconditioner == (None, None)
    assert law.shift == (0.0, 0.0)
    assert law.is_identity
    assert law.sign == 1.0
    assert law.reason is None
    assert law.optimizer == "SGD"
    assert "2103.00065" in law.source


def test_sgd_groups_with_their_own_decay_keep_it_in_the_shift() -> None:
    a, b = make_params()
    settings = [{"lr": 0.1, "weight_decay": 1.5}, {"lr": 0.1}]
    law = stability_law(optim.SGD(groups_of([a, b], settings)))
    assert law.edge == pytest.approx(20)
    assert law.preconditioner == (None, None)
    assert law.shift == (1.5, 0.0)
    assert not law.is_identity


def test_ratios_of_edges_go_into_p() -> None:
    a, b = make_params()
    law = stability_law(optim.SGD(groups_of([a, b], [{"lr": 0.1}, {"lr": 0.3, "momentum": 0.5}])))
    assert law.edge == pytest.approx(20)
    assert law.preconditioner[0] is None
    assert law.preconditioner[1] is not None
    assert law.preconditioner[1].shape == b.shape
    assert law.preconditioner[1].unique().tolist() == pytest.approx([10 / 20])
    assert not law.is_identity


def test_the_reference_is_the_first_group_that_moves_whatever_the_order_of_params() -> None:
    a, b = make_params()
    c = torch.nn.Parameter(torch.ones(2))
    settings = [{"lr": 0.0}, {"lr": 0.2}, {"lr": 0.1}]
    optimizer = optim.SGD(groups_of([a, b, c], settings))
    law = stability_law(optimizer, [c, b, a])
    assert law.edge == pytest.approx(10)
    still = law.preconditioner[2]
    assert law.preconditioner[0] is not None
    assert law.preconditioner[0].unique().tolist() == pytest.approx([2.0])
    assert law.preconditioner[1] is None
    assert still is not None
    assert still.isinf().all()
    assert still.shape == a.shape
    assert still.rsqrt().eq(0).all()  # what a caller multiplies with


def test_frozen_and_foreign_and_unused_parameters_do_not_move() -> None:
    a, b = make_params()
    unused, foreign = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    b.requires_grad_(False)
    optimizer = optim.Adam([a, b, unused], lr=0.1)
    a.grad = torch.ones_like(a)
    optimizer.step()
    assert len(stability_law(optimizer).preconditioner) == 2  # a and unused
    law = stability_law(optimizer, [b, foreign, a, unused])
    assert law.edge == pytest.approx(380)
    inf = [entry is not None and bool(entry.isinf().all()) for entry in law.preconditioner]
    assert inf == [True, True, False, True]
    assert unused not in optimizer.state


def test_a_parameter_frozen_on_the_way_does_not_move_any_more() -> None:
    a, b = make_params()
    for optimizer in (optim.SGD([a, b], lr=0.1), optim.Adam([a, b], lr=0.1)):
        stepped(optimizer)
        b.requires_grad_(False)
        _, entry = stability_law(optimizer, [a, b]).preconditioner
        assert entry is not None
        assert entry.isinf().all()
        b.requires_grad_(True)


def test_adagrad_has_a_state_before_it_has_stepped() -> None:
    a, unused = make_params()
    optimizer = optim.Adagrad([a, unused], lr=0.1)
    assert stability_law(optimizer).reason == "no step taken yet"
    a.grad = torch.ones_like(a)
    optimizer.step()
    law = stability_law(optimizer)
    assert law.edge == pytest.approx(20)
    assert law.preconditioner[1] is not None
    assert law.preconditioner[1].isinf().all()


def test_parameters_of_a_group_may_have_stepped_differently_often() -> None:
    a, b = make_params()
    optimizer = optim.NAdam([a, b], lr=0.1)
    for t in range(9):
        a.grad = torch.ones_like(a)
        b.grad = torch.ones_like(b) if t > 5 else None
        optimizer.step()
    together = stability_law(optimizer)
    alone = stability_law(optimizer, [b])
    assert together.edge is not None
    assert alone.edge is not None
    assert together.edge != pytest.approx(alone.edge, rel=1e-3)
    left, right = together.preconditioner[1], alone.preconditioner[0]
    assert left is not None
    assert right is not None
    torch.testing.assert_close(left * together.edge, right * alone.edge)


def test_two_optimizers_each_have_their_own_law() -> None:
    generator, critic = make_params()
    first = optim.Adam([generator], lr=0.1, betas=(0.5, 0.9))
    second = optim.SGD([critic], lr=0.1)
    stepped(first)
    assert stability_law(first).edge == pytest.approx(60)
    assert stability_law(second).edge == pytest.approx(20)
    both = stability_law(second, [generator, critic])
    assert both.edge == pytest.approx(20)
    assert both.preconditioner[0] is not None
    assert both.preconditioner[0].isinf().all()


def test_maximize_is_told_by_the_sign() -> None:
    a, b = make_params()
    law = stability_law(optim.SGD([a, b], lr=0.1, weight_decay=1.0, maximize=True))
    assert law.sign == -1.0
    assert law.edge == pytest.approx(19)  # of -H
    assert not law.is_identity
    mixed = optim.SGD(groups_of([a, b], [{"maximize": True}, {"maximize": False}]), lr=0.1)
    reason = stability_law(mixed).reason
    assert reason is not None
    assert "some groups ascend (maximize=True) and others descend" in reason


# ---------------------------------------------------------------- schedules


@pytest.mark.parametrize("cls", [optim.SGD, optim.Adam, optim.AdamW])
def test_one_cycle_is_followed(cls: type) -> None:
    params = make_params()
    settings: dict[str, Any] = {"momentum": 0.9} if cls is optim.SGD else {}
    optimizer = cls(params, lr=0.1, **settings)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=20)
    edges = []
    for each in gradients(20, SHAPES):
        for param, gradient in zip(params, each, strict=True):
            param.grad = gradient
        optimizer.step()
        group = optimizer.param_groups[0]
        law = stability_law(optimizer)
        lr = group["lr"]
        if cls is optim.SGD:
            expected = 2 * (1 + group["momentum"]) / lr
        else:
            b1 = group["betas"][0]
            decay = group["weight_decay"]
            expected = (2 - lr * decay) * (1 + b1) / ((1 - b1) * lr)
        assert law.edge == pytest.approx(expected)
        edges.append(law.edge)
        schedule.step()
    assert max(edges) > 3 * min(edges)


# ---------------------------------------------------------------- clipping


def test_clipping_by_norm_divides_the_edge_and_the_coupled_decay() -> None:
    params = make_params()
    law = stability_law(optim.SGD(params, lr=0.1), params, gradient_scale=0.25)
    assert law.edge == pytest.approx(80)
    law = stability_law(optim.SGD(params, lr=0.1, weight_decay=1.0), params, gradient_scale=0.25)
    assert law.edge == pytest.approx(80 - 4)
    adam = optim.Adam(params, lr=0.1, weight_decay=1.0)
    stepped(adam)
    whole, clipped = stability_law(adam), stability_law(adam, gradient_scale=0.25)
    assert whole.edge is not None
    assert clipped.edge == pytest.approx(4 * whole.edge)
    assert clipped.shift == (4.0, 4.0)
    for left, right in zip(whole.preconditioner, clipped.preconditioner, strict=True):
        assert left is not None
        assert right is not None
        assert torch.equal(left, right)


def test_clipping_by_value_has_no_law() -> None:
    law = stability_law(optim.SGD(make_params(), lr=0.1), gradient_scale=None)
    assert law.edge is None
    assert law.reason is not None
    assert "clipped by value" in law.reason
    assert "step/stability_ratio still holds" in law.reason


def test_a_scale_that_is_none() -> None:
    optimizer = optim.SGD(make_params(), lr=0.1)
    for wrong in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"gradient_scale=.*min\(1, limit / norm\)"):
            stability_law(optimizer, gradient_scale=wrong)
    assert stability_law(optimizer, gradient_scale=0.0).reason == "the gradients were scaled to 0"


# ---------------------------------------------------------------- variants

PLAIN: dict[str, tuple[type, dict[str, Any]]] = {
    "sgd": (optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    "adam": (optim.Adam, {"weight_decay": 0.1}),
    "amsgrad": (optim.Adam, {"amsgrad": True}),
    "adamw": (optim.AdamW, {}),
    "adamax": (optim.Adamax, {}),
    "nadam": (optim.NAdam, {}),
    "radam": (optim.RAdam, {"betas": (0.9, 0.9)}),
    "rmsprop": (optim.RMSprop, {"centered": True, "momentum": 0.5}),
    "adagrad": (optim.Adagrad, {"lr_decay": 0.1}),
    "adadelta": (optim.Adadelta, {"weight_decay": 0.1}),
    "adafactor": (optim.Adafactor, {"weight_decay": 0.1}),
}
ON_CPU = [(name, "foreach") for name in PLAIN]
ON_CPU += [(name, "fused") for name in ("sgd", "adam", "amsgrad", "adamw", "adagrad")]
ON_CPU += [(name, "tensor lr") for name in PLAIN]
ON_CPU += [(name, "differentiable") for name in PLAIN if name != "adafactor"]
ON_CPU += [(name, "tensor betas") for name in ("adam", "amsgrad", "adamw")]
CAPTURABLE = ["adam", "amsgrad", "adamw", "adamax", "nadam", "radam", "rmsprop", "adadelta"]


def same(left: StabilityLaw, right: StabilityLaw, rtol: float = 1e-5) -> None:
    assert right.edge is not None, right.reason
    assert left.edge == pytest.approx(right.edge, rel=rtol)
    assert left.shift == right.shift
    for mine, theirs in zip(left.preconditioner, right.preconditioner, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            assert not mine.requires_grad
            torch.testing.assert_close(mine.cpu(), theirs.cpu(), rtol=rtol, atol=0)


@pytest.mark.parametrize(("name", "variant"), ON_CPU)
def test_variants_have_the_law_of_the_plain_one(name: str, variant: str) -> None:
    cls, settings = PLAIN[name]
    plain = stepped(cls(make_params(), lr=0.1, foreach=False, **settings))
    params: list[Tensor] = [*make_params()]
    extra: dict[str, Any] = {}
    if variant == "tensor lr":
        extra = {"lr": torch.tensor(0.1), "foreach": False}
    elif variant == "tensor betas":
        # torch refuses to mix them with a plain lr's foreach
        betas = tuple(torch.tensor(b) for b in (0.9, 0.999))
        extra = {"betas": betas, "lr": torch.tensor(0.1), "foreach": False}
    elif variant == "differentiable":
        params = [p.clone() for p in params]  # a leaf cannot be changed in place under autograd
        extra = {variant: True}
    else:
        extra = {variant: True}
    optimizer = cls(params, **{"lr": 0.1, **settings, **extra})
    if variant == "tensor betas":  # kept as numbers by torch 2.13, as tensors by others
        for group in optimizer.param_groups:
            group["betas"] = tuple(torch.as_tensor(b) for b in group["betas"])
    if variant == "differentiable":
        for each in gradients(4, SHAPES):
            for param, gradient in zip(params, each, strict=True):
                param.grad = gradient
            optimizer.step()
        same(stability_law(optimizer, params), plain)
    else:
        same(stepped(optimizer), plain)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("name", CAPTURABLE)
def test_capturable(name: str, foreach: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code runs on the CPU as well, once torch's list of devices says so."""
    cls, settings = PLAIN[name]
    plain = stepped(cls(make_params(), lr=0.1, foreach=False, **settings))
    base = optim.Adam if cls is optim.AdamW else cls
    module = sys.modules[f"torch.optim.{base.__name__.lower()}"]
    monkeypatch.setattr(module, "_get_capturable_supported_devices", lambda **_: ["cpu"])
    optimizer = cls(make_params(), lr=torch.tensor(0.1), capturable=True, foreach=foreach, **settings)
    same(stepped(optimizer), plain, rtol=1e-4)  # it has 1 - beta^t in single precision


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("variant", ["foreach", "capturable", "fused", "tensor lr"])
def test_variants_on_a_gpu(variant: str) -> None:
    fused = ["sgd", "adam", "amsgrad", "adamw"]
    for name in {"capturable": CAPTURABLE, "fused": fused}.get(variant, list(PLAIN)):
        cls, settings = PLAIN[name]
        plain = stepped(cls(make_params(), lr=0.1, foreach=False, **settings))
        extra: dict[str, Any] = {variant: True}
        if variant == "tensor lr":
            extra = {"lr": torch.tensor(0.1), "foreach": False}
        optimizer = cls(make_params(device="cuda"), **{"lr": 0.1, **settings, **extra})
        same(stepped(optimizer), plain, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [name for name in PLAIN if name != "sgd"])
def test_p_of_half_precision_is_single(name: str, dtype: torch.dtype) -> None:
    cls, settings = PLAIN[name]
    settings = {**settings, "eps": (1e-4, 1e-3)} if name == "adafactor" else settings
    settings = {**settings, "eps": 1e-4} if name != "adafactor" else settings
    law = stepped(cls(make_params(dtype), lr=0.1, **settings))
    wide = stepped(cls(make_params(), lr=0.1, **settings))
    assert law.edge == pytest.approx(wide.edge)
    for mine, theirs in zip(law.preconditioner, wide.preconditioner, strict=True):
        assert mine is not None
        assert theirs is not None
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, rtol=0.1, atol=0)


def test_eps_does_not_vanish_in_half_precision() -> None:
    param = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    optimizer = optim.Adam([param], lr=0.1, eps=1e-3)
    param.grad = torch.ones_like(param)
    optimizer.step()
    (p,) = stability_law(optimizer).preconditioner
    assert p is not None
    assert p.tolist() == pytest.approx([0.1 * (1 + 1e-3)] * 2, rel=3e-3)


# ---------------------------------------------------------------- the user's own


def test_a_law_must_give_p_the_shape_of_its_parameter() -> None:
    class Own(optim.SGD):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            raise NotImplementedError

    law = Law(
        update=lambda param, group, state: Update(lr=1.0, preconditioner=torch.ones(7)),
        formula="",
        reference="",
    )
    register_law(Own, law)
    try:
        with pytest.raises(ValueError, match=r"shape \(3, 4\) a preconditioner of shape \(7,\)"):
            stability_law(Own(make_params(), lr=0.1))
    finally:
        del LAWS[Own]
