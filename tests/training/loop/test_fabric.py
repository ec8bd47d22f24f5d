"""Loops of Lightning Fabric: its wrappers, its precisions, its loggers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from curvwatch import Watch
from tests.support.modules import batches, sgd
from tests.support.trace import assert_same, picture
from tests.training.loop.loops import loss_fn, normalised, without_times

PRECISIONS = ["32-true", "64-true", "bf16-mixed", "bf16-true"]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)


def own_loss(precision: str) -> Callable[[nn.Module, Any], Tensor]:
    """What Fabric does to the forward pass, by hand."""

    def loss(net: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        x = x.to(next(net.parameters()).dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            out = net(x)
        return F.cross_entropy(out.float(), y)  # Fabric gives outputs back in the default dtype

    return loss


def run(precision: str, *, with_fabric: bool, watched: bool = True) -> tuple[Any, Watch | None]:
    torch.manual_seed(0)
    net: Any = normalised()
    loss: Any = loss_fn
    if with_fabric:
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        fabric.launch()
        model, optimizer = fabric.setup(net, sgd(net.parameters()))
        data: Any = fabric.setup_dataloaders(batches())
    else:
        net.to({"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(precision))
        model, optimizer = net, sgd(net.parameters())
        data, loss = batches(), own_loss(precision)
    torch.manual_seed(1)
    watch = None
    if watched:
        watch = Watch(model, optimizer, loss, every_n_steps=1, on_error="raise")
    for batch in data:
        value = loss(model, batch)
        fabric.backward(value) if with_fabric else value.backward()
        optimizer.step()
        optimizer.zero_grad()
        if watch is not None:
            watch.step(batch, loss=value)
    if watch is not None:
        watch.close()
    return picture(net), watch


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_bit_is_as_without(precision: str) -> None:
    watched, _ = run(precision, with_fabric=True)
    plain, _ = run(precision, with_fabric=True, watched=False)
    assert_same(watched, plain, "module")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_readings_are_those_of_the_same_loop_by_hand(precision: str) -> None:
    _, fabric = run(precision, with_fabric=True)
    _, plain = run(precision, with_fabric=False)
    assert list(fabric.history["step/loss_change"].steps) == list(range(6))
    assert_same(without_times(fabric.history), without_times(plain.history), "readings")
    assert not [n for n in fabric.history.notes if "repeatable" in n.text]
