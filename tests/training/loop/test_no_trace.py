"""A run with Watch is bit for bit the run without it."""

from __future__ import annotations

import copy
import io
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from curvwatch import Watch
from tests.support.modules import adam, batches, sgd, told
from tests.support.studies import only
from tests.support.trace import assert_same, picture, world
from tests.training.loop.loops import loop, loss_fn, normalised, nothing


def fused(params: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=1e-2, fused=True)


def nesterov(params: Any) -> torch.optim.Optimizer:
    """Its foreach step adds the momentum to the gradient, in place."""
    return torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True, foreach=True)


def hooks_of(net: nn.Module, optimizer: torch.optim.Optimizer) -> list[int]:
    return [
        len(net._forward_pre_hooks),
        len(optimizer._optimizer_step_pre_hooks),
        len(optimizer._optimizer_step_post_hooks),
    ]


def pictures(optimizer: Any, options: dict[str, Any] | None, **loop_options: Any) -> list[Any]:
    """The world after each step, and the module with its hooks at the end."""
    torch.manual_seed(0)
    net = normalised()
    opt = optimizer(net.parameters())
    taken = []

    def look() -> None:
        weights = [picture(t) for t in (*net.parameters(), *net.buffers())]
        taken.append({"world": world(), "weights": weights, "state": picture(opt.state_dict())})

    watch = None if options is None else Watch(net, opt, loss_fn, on_error="raise", **options)
    loop(net, opt, watch=watch, seen=look, data=batches(shuffle=True), **loop_options)
    if watch is not None:
        assert len(watch.history)
        assert hooks_of(net, opt) != [0, 0, 0]
        watch.close()
    assert hooks_of(net, opt) == [0, 0, 0]
    return [*taken, picture(net)]


# options of the watch, and of the loop
LOOPS: dict[str, tuple[Any, Any]] = {
    "every step": ({"every_n_steps": 1}, {}),
    "every second": ({"every_n_steps": 2, "probe": "current", "mode": "eval"}, {}),
    "budget": ({"budget": 0.5, "probe": batches(8)}, {}),
    "accumulation": ({"every_n_steps": 1, "probe_batches": 2}, {"accumulate": 2}),
}


# each loop with two of the optimizers
@pytest.mark.parametrize(
    ("which", "optimizer"),
    only(
        itertools.product(LOOPS, [sgd, nesterov, adam, fused]),
        take=[
            ("every step", sgd),
            ("every step", fused),
            ("every second", nesterov),
            ("every second", adam),
            ("budget", sgd),
            ("budget", adam),
            ("accumulation", nesterov),
            ("accumulation", fused),
        ],
    ),
)
def test_every_bit_is_as_without(which: str, optimizer: Any) -> None:
    options, loop_options = LOOPS[which]
    with_watch = pictures(optimizer, options, **loop_options)
    assert_same(with_watch, pictures(optimizer, None, **loop_options), "run")


@pytest.mark.parametrize("fails_in", ["the re-run", "the logger", "the alert"])
def test_a_fault_changes_nothing_and_is_told_once(fails_in: str) -> None:
    def run(watched: bool) -> Any:
        torch.manual_seed(0)
        net = normalised()
        opt = sgd(net.parameters())
        weight = net[0].weight

        def fails(*_: Any, **__: Any) -> None:
            raise OSError("no space left")

        def fragile(model: nn.Module, batch: Any) -> Tensor:
            if fails_in == "the re-run" and model[0].weight is not weight:
                fails()
            return loss_fn(model, batch)

        logger = type("Logger", (), {"log_metrics": fails if fails_in == "the logger" else nothing})()
        action = fails if fails_in == "the alert" else nothing
        watch = Watch(net, opt, fragile, every_n_steps=1, logger=logger, on_alert=action)
        if not watched:
            watch.close()
        for x, y in batches():
            loss = fragile(net, (x, y))
            loss.backward()
            opt.step()
            opt.zero_grad()
            watch.step((x, y), loss=torch.tensor(torch.nan))
        watch.close()
        return {"net": picture(net), "world": world(), "state": picture(opt.state_dict())}

    with told() as warnings:
        watched = run(True)
    (warning,) = warnings
    assert "OSError: no space left. Training goes on" in warning
    assert_same(watched, run(False), "run")


def test_hooks_go_when_the_loop_raises() -> None:
    net = normalised()
    opt = sgd(net.parameters())
    with pytest.raises(KeyboardInterrupt), Watch(net, opt, loss_fn):
        raise KeyboardInterrupt
    assert hooks_of(net, opt) == [0, 0, 0]


def test_a_model_can_be_copied_and_saved_while_it_is_watched() -> None:
    net = normalised()
    opt = sgd(net.parameters())
    with Watch(net, opt, loss_fn, every_n_steps=1, on_error="raise") as watch:
        average = copy.deepcopy(net)
        torch.save(net, io.BytesIO())
        for batch in batches():
            loss_fn(net, batch).backward()
            loss_fn(average, batch)  # draws random numbers, and is no pass of the watched model
            opt.step()
            watch.step(batch)
            opt.zero_grad()
    assert not watch.history.notes
    assert list(watch.history["step/loss_change"].steps) == list(range(6))
