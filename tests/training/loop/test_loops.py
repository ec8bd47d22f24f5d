"""Loops as people write them: what is read, and what is told where something cannot be."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.utils.data import DataLoader

from curvwatch import CurvatureMonitor, Rule, Watch
from tests.support.modules import Classifier, adam, batches, fit, mlp, sgd, told
from tests.support.trace import assert_same
from tests.training.loop.loops import loop, loss_fn, normalised, without_times

FINITE = {"step/loss_change", "step/directional_sharpness", "curvature/sharpness"}


def assert_read_without_a_word(watch: Watch, steps: list[int]) -> None:
    assert not watch.history.notes
    for name in FINITE:
        assert list(watch.history[name].steps) == steps
        assert np.isfinite(watch.history[name].values).all()


def test_step_returns_what_it_read() -> None:
    net = normalised()
    optimizer = sgd(net.parameters())
    with Watch(net, optimizer, loss_fn, every_n_steps=4) as watch:
        returned = loop(net, optimizer, watch=watch)
    assert [step for step, values in enumerate(returned) if values] == [0, 4]
    assert {name: values[-1] for name, (_, values) in ((n, watch.history[n]) for n in returned[4])} == (
        returned[4]
    )
    assert watch.step(next(iter(batches()))) == {}  # closed


def test_losses_that_are_added_up_have_the_edge_of_their_sum() -> None:
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.5)
    data = list(batches(8))
    with Watch(net, optimizer, loss_fn, every_n_steps=1) as watch:
        for batch in data:
            loss_fn(net, batch).backward()
        optimizer.step()
        values = watch.step(*data)
    # twice the gradient of the mean: half the edge, for the decay is not doubled (20 - .5) / 2
    assert values["curvature/effective_edge"] == pytest.approx(9.75, rel=1e-5)
    assert values["curvature/edge"] == 20.0
    assert not watch.history.notes


def test_a_validation_between_two_steps_is_no_part_of_them() -> None:
    net = normalised()
    optimizer = sgd(net.parameters())

    def validate() -> None:
        net.eval()
        with torch.no_grad():
            for x, _ in DataLoader(batches().dataset, batch_size=4, shuffle=True):
                net(x)
        net.train()

    with Watch(net, optimizer, loss_fn, every_n_steps=1, on_error="raise") as watch:
        loop(net, optimizer, watch=watch, seen=validate)
    assert_read_without_a_word(watch, list(range(6)))


def test_random_numbers_of_the_model_s_own_hook() -> None:
    net = mlp()
    net.register_forward_pre_hook(lambda _, args: (args[0] + torch.randn_like(args[0]),))
    optimizer = sgd(net.parameters())
    with Watch(net, optimizer, loss_fn, every_n_steps=1, on_error="raise") as watch:
        loop(net, optimizer, watch=watch)
    assert_read_without_a_word(watch, list(range(6)))


def noisy(net: nn.Module, batch: Any) -> Tensor:
    """Draws before the model is called, and changes its batch."""
    x, y = batch
    x += 0.5 * torch.randn_like(x)
    return loss_fn(net, (x, y))


def by_parts(net: nn.Module, batch: Any) -> Tensor:
    """Does not call the model as a whole."""
    return loss_fn(nn.Sequential(*net.children()), batch)


def twice(net: nn.Module, batch: Any) -> Tensor:
    return (loss_fn(net, batch) + loss_fn(net, batch)) / 2


@pytest.mark.parametrize("loss", [by_parts, twice])
def test_losses_that_call_the_model_otherwise(loss: Any) -> None:
    net = normalised()
    optimizer = adam(net.parameters())
    data = list(batches())
    with Watch(net, optimizer, loss, every_n_steps=1, on_error="raise") as watch:
        for one, other in zip(data[::2], data[1::2], strict=True):
            parts = [one] if loss is by_parts else [one, other]
            (sum(loss(net, part) for part in parts) / len(parts)).backward()
            optimizer.step()
            optimizer.zero_grad()
            net(one[0])  # no part of the step
            watch.step(*parts)
    assert not [n for n in watch.history.notes if "repeatable" in n.text]
    assert np.isfinite(watch.history["step/loss_change"].values).all()


def test_random_numbers_before_the_forward_pass_need_watch_loss() -> None:
    def run(through_watch: bool) -> tuple[Watch, list[str]]:
        torch.manual_seed(0)
        net = normalised()
        optimizer = sgd(net.parameters())
        always = Rule("always", "step/update_norm", above=0.0, for_readings=1, meaning="")
        watch = Watch(net, optimizer, noisy, every_n_steps=1, rules=[always])
        with watch, told() as warnings:
            for x, y in batches():
                batch = (x.clone(), y)
                (watch.loss(batch) if through_watch else noisy(net, batch)).backward()
                optimizer.step()
                optimizer.zero_grad()
                watch.step(*([] if through_watch else [(x, y)]))
        return watch, warnings

    watch, warnings = run(through_watch=True)
    assert not warnings
    assert_read_without_a_word(watch, list(range(6)))
    assert len(watch.alerts) == 1
    watch, (warning,) = run(through_watch=False)
    assert "Watch.loss" in warning
    assert len([n for n in watch.history.notes if "not repeatable" in n.text]) == 6
    assert not watch.alerts  # values that are doubtful raise none


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_scaler_skips_is_no_step(fused: bool) -> None:
    net = mlp().double()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, fused=fused)
    scaler = GradScaler("cpu", init_scale=2.0**8)
    with Watch(net, optimizer, loss_fn, every_n_steps=1, on_error="raise") as watch:
        for i, (x, y) in enumerate(batches()):
            batch = (x.double(), y)
            loss = loss_fn(net, batch)
            scaler.scale(loss * (torch.inf if i in (0, 3) else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            watch.step(batch, loss=loss)
    assert list(watch.history["curvature/sharpness"].steps) == list(range(6))
    assert list(watch.history["step/loss_change"].steps) == [1, 2, 4, 5]
    # the scale is no factor of the gradient
    edges = watch.history["curvature/effective_edge"].values[[2, 4, 5]]
    assert edges == pytest.approx([3800.0] * 3)
    assert not watch.alerts


def test_lbfgs_with_a_closure() -> None:
    net = mlp()
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.5, max_iter=3)
    batch = next(iter(batches()))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_fn(net, batch)
        loss.backward()
        return loss

    with Watch(net, optimizer, loss_fn, every_n_steps=1, on_error="raise") as watch:
        before = loss_fn(net, batch).item()
        optimizer.step(closure)
        values = watch.step(batch)
    change = loss_fn(net, batch).item() - before
    assert values["step/loss_change"] == pytest.approx(change, rel=1e-4)


def test_a_closure_s_gradient_is_that_of_the_step() -> None:
    net = normalised()
    optimizer = sgd(net.parameters())
    with Watch(net, optimizer, loss_fn, every_n_steps=1, on_error="raise") as watch:
        for batch in batches():

            def closure(batch: Any = batch) -> Tensor:
                optimizer.zero_grad()
                loss = loss_fn(net, batch)
                loss.backward()
                return loss

            optimizer.step(closure)
            watch.step(batch)
    assert_read_without_a_word(watch, list(range(6)))


def test_nesterov_s_foreach_step_keeps_its_edge() -> None:
    """It adds the momentum to the gradient in place."""
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, foreach=True)
    with Watch(net, optimizer, loss_fn, every_n_steps=1, on_error="raise") as watch:
        loop(net, optimizer, watch=watch)
    assert watch.history["curvature/effective_edge"].values == pytest.approx([3.8 / 2.8 / 0.1] * 6)


class Whole(nn.Module):
    """Code that is not torch's own, which a compiler leaves alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize("what", ["the model", "the model in place", "the loss"])
def test_compiled(what: str) -> None:
    torch.compiler.reset()

    def run(compiled: bool) -> dict[str, Any]:
        torch.manual_seed(0)
        # of a compiled loss the random numbers are not known
        model: Any = Whole(mlp() if what == "the loss" else normalised())
        optimizer = sgd(model.parameters())
        loss: Any = loss_fn
        if compiled and what == "the model":
            model = torch.compile(model, backend="eager")
        elif compiled and what == "the model in place":
            model.compile(backend="eager", fullgraph=True)
        elif compiled:
            loss = torch.compile(loss_fn, backend="eager", fullgraph=True)
        own_call = model._compiled_call_impl
        with Watch(model, optimizer, loss, every_n_steps=1, on_error="raise") as watch:
            for batch in batches():
                loss(model, batch).backward()
                optimizer.step()
                optimizer.zero_grad()
                watch.step(batch)
        assert model._compiled_call_impl is own_call
        assert_read_without_a_word(watch, list(range(6)))
        return without_times(watch.history)

    assert_same(run(compiled=True), run(compiled=False), "readings")


class Pair(nn.Module):
    """A generator and a discriminator."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Linear(2, 6)
        self.judge = mlp()


def test_several_optimizers_each_with_its_loss() -> None:
    pair = Pair()
    optimizers = [adam(pair.make.parameters()), sgd(pair.judge.parameters())]

    def fooled(pair: Pair, batch: Any) -> Tensor:
        return pair.judge(pair.make(batch[0][:, :2])).square().mean()

    def judged(pair: Pair, batch: Any) -> Tensor:
        return loss_fn(pair.judge, batch) - fooled(pair, batch)

    with Watch(pair, optimizers, [fooled, judged], every_n_steps=1, on_error="raise") as watch:
        for batch in batches():
            for optimizer, loss in zip(optimizers, (fooled, judged), strict=True):
                for other in optimizers:
                    other.zero_grad()
                loss(pair, batch).backward()
                optimizer.step()
            watch.step(batch)
    for name in FINITE:
        for suffix in ("-Adam", "-SGD"):
            assert np.isfinite(watch.history[name + suffix].values).all()
    assert watch.history["curvature/edge-SGD"].values == pytest.approx([20.0] * 6)
    assert {n.text for n in watch.history.notes if "repeatable" in n.text} == set()


def test_an_alert_asks_for_the_end() -> None:
    net = mlp()
    optimizer = sgd(net.parameters())
    seen: list[Any] = []
    with Watch(net, optimizer, loss_fn, every_n_steps=100, on_alert=[seen.append, "stop"]) as watch:
        for i, batch in enumerate(batches()):
            loss = loss_fn(net, batch)
            loss.backward()
            optimizer.step()
            watch.step(batch, loss=loss * (torch.nan if i == 3 else 1.0))
            if watch.stopped:
                break
    assert i == 3
    assert watch.stopped
    assert [(a.rule, a.metric, a.step) for a in watch.alerts] == [("not_finite", "training loss", 3)]
    assert seen == watch.alerts


@pytest.mark.parametrize("zeroed", [False, True])
def test_the_wrong_order_is_told_once(zeroed: bool) -> None:
    net = mlp()
    optimizer = sgd(net.parameters())
    with told() as warnings, Watch(net, optimizer, loss_fn, every_n_steps=100) as watch:
        for batch in [*batches(), *batches()]:
            loss_fn(net, batch).backward()
            if zeroed:  # and never a step
                optimizer.zero_grad()
            watch.step(batch)
            if not zeroed:
                optimizer.step()
                optimizer.zero_grad()
    (warning,) = warnings
    assert "call it after optimizer.step()" in warning


def test_resumed_as_one_run() -> None:
    data = list(batches(48))

    def run(*parts: slice, keep: bool = True) -> Watch:
        torch.manual_seed(0)
        net = normalised()
        optimizer = adam(net.parameters())
        state = None
        for part in parts:
            watch = Watch(net, optimizer, loss_fn, every_n_steps=2, probe_batches=2)
            if state is not None and keep:
                watch.load_state_dict(torch.load(state, weights_only=True))
            with watch:
                loop(net, optimizer, data=data[part], watch=watch)
            state = io_of(watch.state_dict())
        return watch

    whole, resumed = run(slice(None)), run(slice(5), slice(5, None))
    assert list(whole.history["curvature/sharpness"].steps) == [2, 4, 6, 8, 10]
    assert_same(without_times(whole.history), without_times(resumed.history), "readings")


def test_an_empty_state_is_a_run_without_readings() -> None:
    net = mlp()
    optimizer = sgd(net.parameters())
    with told() as warnings, Watch(net, optimizer, loss_fn, every_n_steps=2) as watch:
        watch.load_state_dict({})
        loop(net, optimizer, watch=watch)
    assert not warnings
    assert watch.history["curvature/sharpness"].steps[0] == 0


def io_of(state: dict[str, Any]) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def test_a_checkpoint_without_a_probe_is_told() -> None:
    net = mlp()
    optimizer = sgd(net.parameters())
    data = list(batches())
    with told() as warnings, Watch(net, optimizer, loss_fn, every_n_steps=1) as watch:
        loop(net, optimizer, data=data[:2], watch=watch)
        watch.load_state_dict({**watch.state_dict(), "probe": None})
        before = loss_fn(net, data[4]).item()
        loop(net, optimizer, data=data[4:], watch=watch)
    assert watch.history["curvature/loss"].values[2] == pytest.approx(before)
    (warning,) = warnings
    assert "the checkpoint holds no probe" in warning


def test_a_monitor_s_checkpoint_is_gone_on_with() -> None:
    monitor = CurvatureMonitor(every_n_steps=2)
    module = Classifier()
    fit(module, monitor)
    optimizer = sgd(module.net.parameters())
    optimizer.zero_grad()
    with Watch(module.net, optimizer, loss_fn, every_n_steps=2) as watch:
        watch.load_state_dict(monitor.state_dict())
        loop(module.net, optimizer, watch=watch)
    assert list(watch.history["curvature/sharpness"].steps) == [0, 2, 4, 6, 8, 10]


def test_a_probe_that_was_never_complete_is_told() -> None:
    net = mlp()
    optimizer = sgd(net.parameters())
    with told() as warnings, Watch(net, optimizer, loss_fn, probe_batches=7) as watch:
        loop(net, optimizer, watch=watch)
    (warning,) = warnings
    assert "ended with 6 of 7 probe batches" in warning


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_model_that_cannot_be_measured_is_told_and_trained() -> None:
    net = torch.jit.script(mlp())
    optimizer = sgd(net.parameters())
    with told() as warnings, Watch(net, optimizer, loss_fn, every_n_steps=1) as watch:
        loop(net, optimizer, watch=watch)
    (warning,) = warnings
    assert "scripted module" in warning


GOOD = mlp()
OPTIMIZER = sgd(GOOD.parameters())


@pytest.mark.parametrize(
    ("model", "optimizer", "loss", "options", "message"),
    [
        ("net", OPTIMIZER, loss_fn, {}, "model='net': a torch.nn.Module"),
        (GOOD, GOOD.parameters, loss_fn, {}, "optimizer=method: a torch.optim.Optimizer"),
        (GOOD, [], loss_fn, {}, "at least one torch.optim.Optimizer"),
        (GOOD, sgd(mlp().parameters()), loss_fn, {}, "SGD holds no parameter of the model"),
        (GOOD, OPTIMIZER, None, {}, "loss_fn=None: a function of the model and a batch"),
        (GOOD, OPTIMIZER, torch.zeros(()), {}, "a function of the model and a batch"),
        (GOOD, [OPTIMIZER], [loss_fn, loss_fn], {}, "loss_fn has 2 functions for 1 optimizers"),
        (GOOD, OPTIMIZER, loss_fn, {"every_n_steps": 0}, "every_n_steps=0"),
        (GOOD, OPTIMIZER, loss_fn, {"budget": 1.5}, "budget=1.5"),
        (GOOD, OPTIMIZER, loss_fn, {"chunk_size": 0}, "chunk_size=0: a positive number"),
        (GOOD, OPTIMIZER, loss_fn, {"mode": "test"}, "mode='test': one of 'train', 'eval'"),
        (GOOD, OPTIMIZER, loss_fn, {"logger": print}, "log_metrics"),
        (GOOD, OPTIMIZER, loss_fn, {"probe": "last"}, "probe='last'"),
    ],
)
def test_arguments_are_checked(
    model: Any, optimizer: Any, loss: Any, options: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Watch(model, optimizer, loss, **options)
    assert not OPTIMIZER._optimizer_step_pre_hooks


def test_a_step_without_batches_is_refused() -> None:
    with (
        Watch(GOOD, OPTIMIZER, loss_fn) as watch,
        pytest.raises(ValueError, match=r"Watch.loss\(batch\)"),
    ):
        watch.step()


def test_lightning_is_not_imported() -> None:
    code = (
        "import json, sys, torch, curvwatch\n"
        "net = torch.nn.Linear(2, 1)\n"
        "optimizer = torch.optim.SGD(net.parameters(), lr=.1)\n"
        "loss_fn = lambda net, x: net(x).square().mean()\n"
        "watch = curvwatch.Watch(net, optimizer, loss_fn, every_n_steps=1, on_error='raise')\n"
        "loss_fn(net, torch.ones(3, 2)).backward()\n"
        "optimizer.step()\n"
        "values = watch.step(torch.ones(3, 2))\n"
        "print(json.dumps([len(values), [m for m in sys.modules if 'lightning' in m]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, imported = json.loads(done.stdout)
    assert count > 15
    assert imported == []
