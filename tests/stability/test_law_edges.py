"""Each law against its real optimizer on 1-D quadratics: where does |x| start to grow?"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from curvwatch.stability import stability_law
from tests.stability.stability_harness import measured_edge
from tests.support.studies import only, without

optim = torch.optim
TINY: dict[str, tuple[type, dict[str, Any]]] = {
    "sgd": (optim.SGD, {}),
    "sgd decay": (optim.SGD, {"weight_decay": 3.0}),
    "sgd maximize": (optim.SGD, {"maximize": True, "weight_decay": 3.0}),
    "heavy ball": (optim.SGD, {"momentum": 0.9}),
    "heavy ball decay": (optim.SGD, {"momentum": 0.8, "weight_decay": 5.0}),
    "dampened": (optim.SGD, {"momentum": 0.9, "dampening": 0.4}),
    "dampening without momentum": (optim.SGD, {"dampening": 0.4}),
    "nesterov": (optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "nesterov decay": (optim.SGD, {"momentum": 0.7, "nesterov": True, "weight_decay": 2.0}),
    "adam": (optim.Adam, {"eps": 0.7}),
    "adam betas": (optim.Adam, {"eps": 1.0, "betas": (0.5, 0.99)}),
    "adam decay": (optim.Adam, {"eps": 1.0, "weight_decay": 30.0}),
    "adam decoupled flag": (
        optim.Adam,
        {"eps": 1.0, "weight_decay": 3.0, "decoupled_weight_decay": True},
    ),
    "adam maximize": (optim.Adam, {"eps": 1.0, "maximize": True, "weight_decay": 20.0}),
    "amsgrad": (optim.Adam, {"eps": 0.7, "amsgrad": True}),
    "adamw": (optim.AdamW, {"eps": 0.7, "weight_decay": 3.0}),
    "adamw amsgrad": (optim.AdamW, {"eps": 0.7, "weight_decay": 3.0, "amsgrad": True}),
    "adamax": (optim.Adamax, {"eps": 0.7}),
    "adamax decay": (optim.Adamax, {"eps": 1.0, "weight_decay": 30.0}),
    "nadam still": (optim.NAdam, {"eps": 0.7, "momentum_decay": 0.0}),
    "nadam drifting": (optim.NAdam, {"eps": 0.7}),
    "nadam drifting fast": (optim.NAdam, {"eps": 0.7, "momentum_decay": 0.008}),
    "nadam decay": (optim.NAdam, {"eps": 1.0, "momentum_decay": 0.0, "weight_decay": 5.0}),
    "nadam decoupled": (
        optim.NAdam,
        {"eps": 1, "momentum_decay": 0.0, "weight_decay": 3.0, "decoupled_weight_decay": True},
    ),
    # rho_inf = 4, so it never adapts
    "radam un-adapted": (optim.RAdam, {"betas": (0.9, 0.6)}),
    "radam un-adapted decoupled": (
        optim.RAdam,
        {"betas": (0.9, 0.6), "weight_decay": 3.0, "decoupled_weight_decay": True},
    ),
    "radam adapted": (optim.RAdam, {"eps": 0.7, "betas": (0.9, 0.9)}),
    "radam decay": (optim.RAdam, {"eps": 1.0, "betas": (0.9, 0.9), "weight_decay": 30.0}),
    "rmsprop": (optim.RMSprop, {"eps": 0.7}),
    "rmsprop decay": (optim.RMSprop, {"eps": 1.0, "weight_decay": 3.0}),
    "rmsprop momentum": (optim.RMSprop, {"eps": 0.7, "momentum": 0.9}),
    "rmsprop centered": (optim.RMSprop, {"eps": 0.7, "centered": True, "momentum": 0.5}),
    "adagrad": (optim.Adagrad, {"eps": 0.7, "initial_accumulator_value": 0.5}),
    "adagrad decay": (optim.Adagrad, {"eps": 1.0, "weight_decay": 3.0}),
    "adadelta": (optim.Adadelta, {"eps": 0.3}),
    "adadelta decay": (optim.Adadelta, {"eps": 0.3, "weight_decay": 0.5}),
}
# 1/sqrt(t) stays above lr for as long as the run lasts
ADAFACTOR: dict[str, dict[str, Any]] = {
    "adafactor": {"lr": 0.02, "eps": (0.7, 0.5)},
    "adafactor decay": {"lr": 0.02, "eps": (0.7, 0.5), "weight_decay": 5.0},
}
FROZEN: dict[str, tuple[type, dict[str, Any], int]] = {
    "adam at 1": (optim.Adam, {}, 1),
    "adam at 7": (optim.Adam, {"betas": (0.8, 0.99)}, 7),
    "amsgrad at 30": (optim.Adam, {"amsgrad": True}, 30),
    "adamw at 3": (optim.AdamW, {"weight_decay": 2.0}, 3),
    "adamax at 4": (optim.Adamax, {}, 4),
    "nadam at 1": (optim.NAdam, {}, 1),
    "nadam at 5": (optim.NAdam, {"weight_decay": 2.0}, 5),
    "nadam at 1000": (optim.NAdam, {}, 1000),
    "nadam at 20000": (optim.NAdam, {}, 20000),
    "radam at 5, un-adapted": (optim.RAdam, {}, 5),
    "radam at 6, adapted": (optim.RAdam, {"lr": 2.0}, 6),
    "radam at 300": (optim.RAdam, {"weight_decay": 2.0}, 300),
    "rmsprop": (optim.RMSprop, {"centered": True, "momentum": 0.9, "weight_decay": 2.0}, 9),
    "adagrad lr_decay": (optim.Adagrad, {"lr_decay": 0.05, "weight_decay": 2.0}, 40),
    "adadelta": (optim.Adadelta, {"weight_decay": 0.5}, 9),
}


def lr_of(cls: type) -> float:
    return 1.0 if cls is optim.Adadelta else 0.1


def middle_of(cls: type, settings: dict[str, Any]) -> float:
    """A rough place to look: 2/lr, ten times that with an average of gradients."""
    averaging = settings.get("betas", (0.9,))[0] if cls is not optim.SGD else 0.0
    wide = {optim.Adam, optim.AdamW, optim.Adamax, optim.RAdam}
    return 2 / lr_of(cls) * ((1 + averaging) / (1 - averaging) if cls in wide else 1.0)


# laws that a row with more settings has too
WITH_LESS = (
    "sgd",
    "heavy ball",
    "nesterov",
    "adam",
    "amsgrad",
    "adamw",
    "adamax",
    "nadam drifting fast",
    "rmsprop",
    "adagrad",
    "adadelta",
)


@pytest.mark.parametrize("name", without(TINY, leave=WITH_LESS))
def test_edge_of_the_free_optimizer(name: str) -> None:
    cls, settings = TINY[name]

    def make(params: list[torch.Tensor]) -> torch.optim.Optimizer:
        return cls(params, **{"lr": lr_of(cls), **settings})

    # growth is taken from step 200 to 400, in whose middle the law of the drifting ones is read
    drifting = "drifting" in name
    measured, predicted = measured_edge(make, middle=middle_of(cls, settings), steps=400)
    assert predicted == pytest.approx(measured, rel=1e-3 if drifting else 1e-5)


@pytest.mark.parametrize("name", only(ADAFACTOR, take=["adafactor decay"]))
def test_edge_of_adafactor(name: str) -> None:
    def make(params: list[torch.Tensor]) -> torch.optim.Optimizer:
        return optim.Adafactor(params, **ADAFACTOR[name])

    measured, predicted = measured_edge(make, separate=True, middle=150.0, steps=160)
    assert predicted == pytest.approx(measured, rel=1e-5)


def test_edge_of_adafactor_once_its_step_decays() -> None:
    def make(params: list[torch.Tensor]) -> torch.optim.Optimizer:
        return optim.Adafactor(params, lr=0.1, eps=(1e-3, 0.5), weight_decay=2.0)

    measured, predicted = measured_edge(
        make, separate=True, frozen_at=900, middle=100.0, steps=160, start=1e-100
    )
    assert predicted == pytest.approx(measured, rel=1e-5)


@pytest.mark.parametrize("name", without(FROZEN, leave=["nadam at 1000", "radam at 300"]))
def test_edge_with_time_and_second_moments_held_still(name: str) -> None:
    cls, settings, t = FROZEN[name]

    def make(params: list[torch.Tensor]) -> torch.optim.Optimizer:
        return cls(params, **{"lr": lr_of(cls), **settings})

    measured, predicted = measured_edge(
        make, frozen_at=t, middle=middle_of(cls, settings), steps=300, start=1e-100
    )
    assert predicted == pytest.approx(measured, rel=1e-5)


# without second moments, and with a mean, a running maximum and a sum of them;
# `test_edge_of_the_free_optimizer` has all laws, to five digits
TO_SEVEN_DIGITS = ("heavy ball decay", "adamw amsgrad", "rmsprop centered", "adagrad decay")


@pytest.mark.parametrize(
    "name", only([name for name in TINY if "drifting" not in name], take=TO_SEVEN_DIGITS)
)
def test_edge_to_seven_digits(name: str) -> None:
    cls, settings = TINY[name]

    def make(params: list[torch.Tensor]) -> torch.optim.Optimizer:
        return cls(params, **{"lr": lr_of(cls), **settings})

    measured, predicted = measured_edge(make, middle=middle_of(cls, settings), steps=3000, rounds=5)
    assert predicted == pytest.approx(measured, rel=1e-7)


def test_textbook_numbers() -> None:
    w = [torch.nn.Parameter(torch.ones(2))]
    w[0].grad = torch.ones(2)

    def edge(cls: type, **settings: Any) -> float | None:
        optimizer = cls(w, **settings)
        optimizer.step()
        return stability_law(optimizer).edge

    assert edge(optim.SGD, lr=0.1) == pytest.approx(20)
    assert edge(optim.SGD, lr=0.1, momentum=0.9) == pytest.approx(38)
    assert edge(optim.SGD, lr=0.1, momentum=0.9, weight_decay=1.0) == pytest.approx(37)
    assert edge(optim.SGD, lr=0.1, momentum=0.9, nesterov=True) == pytest.approx(3.8 / 0.28)
    assert edge(optim.SGD, lr=0.1, momentum=0.9, dampening=0.5) == pytest.approx(76)
    assert edge(optim.Adam, lr=0.1) == pytest.approx(380)
    assert edge(optim.AdamW, lr=0.1, weight_decay=1.0) == pytest.approx(380 - 19)
    assert edge(optim.RMSprop, lr=0.1, momentum=0.9) == pytest.approx(38)
    assert edge(optim.Adagrad, lr=0.1) == pytest.approx(20)
    assert edge(optim.Adadelta, lr=1.0) == pytest.approx(2)
    assert edge(optim.Adafactor, lr=0.1) == pytest.approx(20)
