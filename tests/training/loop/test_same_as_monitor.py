"""A loop reads what CurvatureMonitor reads of the same run in a Trainer, bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from curvwatch import CurvatureMonitor, Watch
from tests.support.modules import Classifier, adam, batches, fit, mlp, sgd
from tests.support.studies import only
from tests.support.trace import assert_same
from tests.training.loop.loops import loop, loss_fn, normalised, without_times


def momentum(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=1e-3)


class Seeds(pl.Callback):
    """A Trainer's set-up draws random numbers."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            torch.manual_seed(3)


def both(
    net: Callable[[], nn.Module],
    optimizer: Callable[[Any], Any],
    *,
    options: dict[str, Any],
    trainer: dict[str, Any] | None = None,
    **loop_options: Any,
) -> tuple[CurvatureMonitor, Watch]:
    """The same run twice: with a monitor in a Trainer, and in a loop."""
    torch.manual_seed(0)
    module = Classifier(net(), optimizer)
    monitor = CurvatureMonitor(on_error="raise", **options)
    data = list(batches(shuffle=True))
    loader = DataLoader(data, batch_size=None)
    fit(module, Seeds(), monitor, data=loader, **(trainer or {}))

    torch.manual_seed(0)
    bare = net()
    opt = optimizer(bare.parameters())
    with Watch(bare, opt, loss_fn, on_error="raise", **options) as watch:
        torch.manual_seed(3)
        loop(bare, opt, data=data, watch=watch, **loop_options)
    for a, b in zip(module.net.parameters(), bare.parameters(), strict=True):
        assert_same(a.detach(), b.detach(), "weights")
    return monitor, watch


def with_dropout() -> nn.Module:
    return mlp(0.4)


@pytest.mark.parametrize(
    ("net", "optimizer"),
    only(
        itertools.product([with_dropout, normalised], [sgd, momentum, adam]),
        take=[(with_dropout, momentum), (with_dropout, adam), (normalised, sgd)],
    ),
)
def test_readings(net: Any, optimizer: Any) -> None:
    monitor, watch = both(net, optimizer, options={"every_n_steps": 1})
    assert list(watch.history["curvature/sharpness"].steps) == list(range(6))
    assert list(watch.history["step/stability_ratio"].steps) == list(range(6))
    assert_same(without_times(monitor.history), without_times(watch.history), "readings")
    assert monitor.history.notes == watch.history.notes


@pytest.mark.parametrize(
    "options",
    [
        {"every_n_steps": 2, "probe_batches": 3},
        {"every_n_steps": 2, "probe": "current"},
        {"every_n_steps": 2, "probe": list(batches(8)), "mode": "eval"},
        {"every_n_steps": 3, "measures": ["step_geometry"]},
    ],
    ids=["several batches", "current", "own, eval", "steps alone"],
)
def test_probes_and_modes(options: Any) -> None:
    monitor, watch = both(normalised, sgd, options=options)
    assert len(watch.history)
    assert_same(without_times(monitor.history), without_times(watch.history), "readings")


def test_accumulation() -> None:
    monitor, watch = both(
        normalised,
        adam,
        options={"every_n_steps": 1, "probe_batches": 2},
        trainer={"accumulate_grad_batches": 2},
        accumulate=2,
    )
    assert list(watch.history["step/loss_change"].steps) == [0, 1, 2]
    assert_same(without_times(monitor.history), without_times(watch.history), "readings")


def decayed(params: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr=1e-2, weight_decay=5.0)


@pytest.mark.parametrize(
    ("algorithm", "optimizer"),
    only(
        itertools.product(["norm", "value"], [momentum, decayed]),
        take=[("norm", momentum), ("value", decayed)],
    ),
)
def test_clipping(algorithm: str, optimizer: Any) -> None:
    clip: dict[str, Callable[[Any], Tensor | None]] = {
        "norm": lambda p: nn.utils.clip_grad_norm_(p, 0.1),
        "value": lambda p: nn.utils.clip_grad_value_(p, 0.03),
    }
    monitor, watch = both(
        normalised,
        optimizer,
        options={"every_n_steps": 1},
        trainer={
            "gradient_clip_val": 0.1 if algorithm == "norm" else 0.03,
            "gradient_clip_algorithm": algorithm,
        },
        clip=clip[algorithm],
    )
    for name, series in without_times(monitor.history).items():
        expected = pytest.approx(series["values"], rel=1e-5, nan_ok=True)
        assert watch.history.to_dict()[name]["values"] == expected, name
    # Adam's first step has another reason beside
    assert [n for n in monitor.history.notes if n.step] == [n for n in watch.history.notes if n.step]
    missing = torch.tensor(watch.history["curvature/stability_ratio"].values).isnan()
    assert bool(missing[1:].all()) == (algorithm == "value")
