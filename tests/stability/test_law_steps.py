"""P is the one that reproduces the optimizer's actual step, along 50 real steps."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from curvwatch.stability import StabilityLaw, stability_law
from tests.stability.stability_harness import groups_of
from tests.support.studies import only

optim = torch.optim
# class, settings with momentum off, whether weight decay is decoupled
WITHOUT_MOMENTUM: dict[str, tuple[type, dict[str, Any], bool]] = {
    "sgd": (optim.SGD, {}, False),
    "adam": (optim.Adam, {"betas": (0.0, 0.99)}, False),
    "amsgrad": (optim.Adam, {"betas": (0.0, 0.9), "amsgrad": True}, False),
    "adam decoupled": (optim.Adam, {"betas": (0.0, 0.99), "decoupled_weight_decay": True}, True),
    "adamw": (optim.AdamW, {"betas": (0.0, 0.99)}, True),
    "adamax": (optim.Adamax, {"betas": (0.0, 0.9)}, False),
    "nadam": (optim.NAdam, {"betas": (0.0, 0.99)}, False),
    "nadam decoupled": (optim.NAdam, {"betas": (0.0, 0.99), "decoupled_weight_decay": True}, True),
    "radam": (optim.RAdam, {"betas": (0.0, 0.99)}, False),  # adapts from step 6 on
    "radam decoupled": (optim.RAdam, {"betas": (0.0, 0.99), "decoupled_weight_decay": True}, True),
    "rmsprop": (optim.RMSprop, {"alpha": 0.9}, False),
    "rmsprop centered": (optim.RMSprop, {"alpha": 0.9, "centered": True}, False),
    "adagrad": (optim.Adagrad, {"lr_decay": 0.1, "initial_accumulator_value": 0.1}, False),
    "adadelta": (optim.Adadelta, {}, False),
    "adadelta low rho": (optim.Adadelta, {"rho": 0.5, "eps": 1e-2}, False),
    "adafactor": (optim.Adafactor, {"eps": (None, 1e-3)}, True),  # clips some of its updates
    "adafactor never clipped": (optim.Adafactor, {"d": 100.0, "eps": (1e-3, 0.5)}, True),
}
SHAPES = [(3, 4), (5,), (), (2, 3, 4)]
LRS = [0.01, 0.03, 0.02, 0.4]
DECAYS = [0.1, 0.0, 0.7, 0.3]


def weights() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in SHAPES
    ]


def loss(params: list[Tensor], t: int) -> Tensor:
    """Neither quadratic nor twice the same."""
    parts = [(p * (1 + 0.3 * i)).cosh().log().sum() for i, p in enumerate(params)]
    return torch.stack(parts).sum() + sum((p.sum() * (2 * t + 1)).sin() for p in params)


def predicted_step(
    law: StabilityLaw,
    before: Tensor,
    gradient: Tensor,
    index: int,
    lr: float,
    past: float,
) -> Tensor:
    """w(t) - w(t+1) from the law alone.

    The law's edge_i P_i is (2 - lr d) P / (lr Q(-1)), and Q is 1 without momentum.
    """
    assert law.edge is not None, law.reason
    entry = law.preconditioner[index]
    p = torch.ones_like(before) if entry is None else entry
    reach = 2.0 - lr * past
    return (
        reach / (law.edge * p) * (law.sign * gradient + law.shift[index] * before) + lr * past * before
    )


# of all with weight decay, which one of four groups is without; ascent once for each formula of a step
ASCEND = ("sgd", "adam", "adamw", "radam", "rmsprop", "adagrad", "adadelta", "adafactor")


@pytest.mark.parametrize(
    ("name", "decay", "maximize"),
    only(
        itertools.product(WITHOUT_MOMENTUM, [False, True], [False, True]),
        take=[
            ("sgd", False, False),
            *((name, True, False) for name in WITHOUT_MOMENTUM),
            *((name, True, True) for name in ASCEND),
        ],
    ),
)
def test_fifty_real_steps(name: str, decay: bool, maximize: bool) -> None:
    cls, settings, decoupled = WITHOUT_MOMENTUM[name]
    params = weights()
    lrs = [10 * lr for lr in LRS] if cls is optim.Adadelta else LRS
    decays = DECAYS if decay else [0.0] * 4
    each = [{"lr": lr, "weight_decay": c} for lr, c in zip(lrs, decays, strict=True)]
    optimizer = cls(groups_of(params, each), **settings, maximize=maximize)
    clipped = 0
    for t in range(50):
        optimizer.zero_grad()
        loss(params, t).backward()
        before = [p.detach().clone() for p in params]
        optimizer.step()
        law = stability_law(optimizer)
        clipped += law.note is not None
        for i, param in enumerate(params):
            assert param.grad is not None
            past = decays[i] if decoupled else 0.0
            expected = predicted_step(law, before[i], param.grad, i, lrs[i], past)
            actual = before[i] - param.detach()
            # the difference of two weights has rounding of its own
            torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-14)
    if name == "adafactor":
        assert clipped > 0  # the case is not empty
    else:
        assert clipped == 0


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (optim.Adam, {}),
        (optim.Adam, {"amsgrad": True}),
        (optim.Adamax, {}),
        (optim.RAdam, {"betas": (0.9, 0.99)}),
    ],
)
def test_with_momentum_the_step_is_lr_over_p_of_the_average(
    cls: type, settings: dict[str, Any]
) -> None:
    params = weights()
    optimizer = cls(params, lr=0.01, **settings)
    for t in range(50):
        optimizer.zero_grad()
        loss(params, t).backward()
        before = [p.detach().clone() for p in params]
        optimizer.step()
        law = stability_law(optimizer)
        assert law.edge is not None
        for i, param in enumerate(params):
            p = law.preconditioner[i]
            average = optimizer.state[param]["exp_avg"]
            # edge = 2 * 19 / lr with beta1 = .9, times 1 / r_t for RAdam
            expected = 38 / law.edge * average / p
            torch.testing.assert_close(before[i] - param.detach(), expected, rtol=1e-6, atol=1e-14)


def test_nadam_step_is_its_two_parts_over_p() -> None:
    """Q(-1) is the gradient's weight plus 1/19 of the average's: the real step has both."""
    (param,) = params = [torch.tensor([0.5, -0.1, 2.0], dtype=torch.float64).requires_grad_()]
    optimizer = optim.NAdam(params, lr=0.01)
    compared = 0
    for t in range(50):
        optimizer.zero_grad()
        loss(params, t).backward()
        before = param.detach().clone()
        optimizer.step()
        law = stability_law(optimizer)
        assert law.edge is not None
        assert law.preconditioner[0] is not None
        assert param.grad is not None
        direction = (before - param.detach()) * law.preconditioner[0] / 0.01
        average = optimizer.state[param]["exp_avg"]
        # two unknown weights from three coordinates
        parts = torch.stack([param.grad, average], dim=1)
        if torch.linalg.cond(parts) > 1e4:  # parallel, as they are at first
            continue
        compared += 1
        of_gradient, of_average = torch.linalg.lstsq(parts, direction[:, None]).solution.flatten()
        response = of_gradient + of_average / 19
        assert law.edge == pytest.approx(2 / (0.01 * response.item()), rel=1e-6)
    assert compared > 30


def test_adadelta_without_its_gradient_says_so_and_stays_within_its_bound() -> None:
    params = weights()
    optimizer = optim.Adadelta(params, lr=0.3, rho=0.8)
    for t in range(20):
        optimizer.zero_grad()
        loss(params, t).backward()
        optimizer.step()
        exact = stability_law(optimizer)
        gradients = [p.grad for p in params]
        optimizer.zero_grad()
        rough = stability_law(optimizer)
        assert exact.note is None
        assert rough.note is not None
        assert "the gradient of the last step is gone" in rough.note
        assert "between 0.71 and 1.12" in rough.note
        for right, near in zip(exact.preconditioner, rough.preconditioner, strict=True):
            assert right is not None
            assert near is not None
            off = near / right
            assert off.min() > 0.5**0.5 - 1e-9
            assert off.max() < 0.8**-0.5 + 1e-9
        for param, gradient in zip(params, gradients, strict=True):
            param.grad = gradient
    for param in params:  # of another batch, which the last step cannot have seen
        assert param.grad is not None
        param.grad = 1e3 * (1 + param.grad.abs())
    assert stability_law(optimizer).note is not None


def test_adafactor_with_row_means_below_eps() -> None:
    """Means below eps1 are raised to it, while sqrt(v) stays above it."""
    generator = torch.Generator().manual_seed(2)
    param = torch.nn.Parameter(torch.ones(3, 4, dtype=torch.float64))
    optimizer = optim.Adafactor([param], lr=0.1, eps=(0.05, 1e-3), d=100.0)
    param.grad = 0.1 + 0.1 * torch.rand(3, 4, generator=generator, dtype=torch.float64)
    optimizer.step()
    law = stability_law(optimizer)
    assert law.preconditioner[0] is not None
    before = torch.ones_like(param)
    expected = predicted_step(law, before, param.grad, 0, 0.1, 0.0)
    torch.testing.assert_close(before - param.detach(), expected, rtol=1e-6, atol=0)


def test_adafactor_without_its_gradient_says_so() -> None:
    params = weights()
    optimizer = optim.Adafactor(params, lr=0.01, d=100.0)
    loss(params, 0).backward()
    optimizer.step()
    exact = stability_law(optimizer)
    optimizer.zero_grad()
    rough = stability_law(optimizer)
    assert exact.note is None
    assert rough.note is not None
    assert "Adafactor's clipping" in rough.note
    for right, near in zip(exact.preconditioner, rough.preconditioner, strict=True):
        assert right is not None
        assert near is not None
        torch.testing.assert_close(near, right, rtol=0.1, atol=0)


def test_adafactor_says_that_it_clipped() -> None:
    param = torch.nn.Parameter(torch.ones(4))
    optimizer = optim.Adafactor([param])
    for size in (1e-3, 1.0):
        param.grad = torch.full((4,), size)
        optimizer.step()
    note = stability_law(optimizer).note
    assert note is not None
    assert "clipped its last update" in note


def test_adafactor_says_that_its_step_was_larger_than_the_weights() -> None:
    param = torch.nn.Parameter(torch.ones(4))
    optimizer = optim.Adafactor([param], lr=5.0, d=1e3, beta2_decay=-2.0)
    for size in (1e-3, 1.0):
        param.grad = torch.full((4,), size)
        optimizer.step()
    note = stability_law(optimizer).note
    assert note is not None
    assert "was larger than the weights" in note


def test_radam_has_its_two_phases() -> None:
    param = torch.nn.Parameter(torch.ones(4))
    optimizer = optim.RAdam([param], lr=0.1)
    param.grad = torch.ones(4)
    seen = []
    for _ in range(7):
        optimizer.step()
        law = stability_law(optimizer)
        assert law.edge is not None
        seen.append(law.edge)
    assert seen[:5] == pytest.approx([380.0] * 5)
    assert seen[5] > 1e4  # r_6 = 0.017
    assert seen[6] < seen[5]


def test_the_optimizer_is_left_alone() -> None:
    for name, (cls, settings, _) in WITHOUT_MOMENTUM.items():
        params = weights()
        unused = torch.nn.Parameter(torch.ones(2))
        optimizer = cls([*params, unused], lr=0.1, weight_decay=0.1, **settings)
        loss(params, 0).backward()
        optimizer.step()
        before = [
            {k: v.clone() if isinstance(v, Tensor) else v for k, v in optimizer.state[p].items()}
            for p in params
        ]
        keys = [*optimizer.state]
        values = [(p.detach().clone(), p.grad.clone()) for p in params if p.grad is not None]
        law = stability_law(optimizer)
        for entry in law.preconditioner:  # no view of the state is handed out
            if entry is not None:
                entry.zero_()
        assert [id(k) for k in optimizer.state] == [id(k) for k in keys], name
        for param, state, (value, gradient) in zip(params, before, values, strict=True):
            assert torch.equal(param, value)
            assert param.grad is not None
            assert torch.equal(param.grad, gradient)
            for key, entry in state.items():
                now = optimizer.state[param][key]
                assert torch.equal(now, entry) if isinstance(entry, Tensor) else now == entry
