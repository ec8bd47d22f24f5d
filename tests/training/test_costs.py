"""What readings cost, in passes that are counted: forward, backward, and Hessian-vector products."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from curvwatch import CurvatureMonitor
from curvwatch.measures import StepGeometry
from tests.support.modules import Classifier, adam, batches, fit, mlp, told

# in gradients, each a forward and a backward pass: the first is a third of it
FORWARD, BACKWARD, PRODUCT = 1 / 3, 2 / 3, 2.0


# global: what a hook of the module holds on to is put back after a reading
PASSES: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _counted(monkeypatch):
    """Counts backward passes and products of readings; those of training are `.backward()`."""
    PASSES.clear()
    original = torch.autograd.grad

    def grad(outputs, inputs, grad_outputs=None, **options):
        PASSES["backward" if grad_outputs is None else "product"] += 1
        return original(outputs, inputs, grad_outputs, **options)

    monkeypatch.setattr(torch.autograd, "grad", grad)


def counted(net: nn.Module) -> nn.Module:
    """`net`, its forward passes counted."""
    net.register_forward_hook(lambda *_: PASSES.update(["forward"]))
    return net


def gradients_spent(*, steps: int) -> float:
    """What readings spent in a run of so many steps."""
    forwards = PASSES["forward"] - steps
    return forwards * FORWARD + PASSES["backward"] * BACKWARD + PASSES["product"] * PRODUCT


def cost_of_a_step(curvature: str, *, steps: int, **options) -> float:
    torch.manual_seed(0)
    net = counted(mlp(dropout=0.2))
    monitor = CurvatureMonitor(
        [StepGeometry(curvature=curvature)], every_n_steps=1, on_error="raise", **options
    )
    fit(Classifier(net, adam), monitor, data=batches(8, batch_size=4), max_steps=steps)
    assert len(monitor.history["step/loss_change"].steps) == steps
    return gradients_spent(steps=steps) / steps


def test_a_step_by_secant_takes_little_more_than_one_gradient(monkeypatch):
    # two gradients in the 1st and the 21st reading
    cost = cost_of_a_step("secant", steps=40)
    assert cost == pytest.approx(42 / 40)
    assert cost <= 1.3


def test_an_exact_step_takes_a_gradient_a_product_and_a_forward_pass():
    cost = cost_of_a_step("exact", steps=6, chunk_size=4)
    assert cost == pytest.approx(1 + PRODUCT + FORWARD)
    assert cost <= 4.2


def test_an_exact_step_in_parts_takes_no_more_but_once():
    cost_of_a_step("exact", steps=1, chunk_size=2)
    first = PASSES.copy()
    PASSES.clear()
    cost_of_a_step("exact", steps=6, chunk_size=2)
    # in the first reading it shows that the parts have to draw the random numbers of the whole
    again = {k: n - first[k] for k, n in PASSES.items()}
    # two parts, each with its graph and a product; the loss after the step, and that of training
    assert again == {"forward": 5 * (2 + 1 + 1), "backward": 5 * 2, "product": 5 * 2}


def test_the_training_gradient_is_used_only_where_it_is_that_of_the_loss():
    class Hooked(Classifier):
        """Gradients are halved on their way to the optimizer."""

        def on_after_backward(self):
            for p in self.parameters():
                p.grad *= 0.5

    monitor = CurvatureMonitor([StepGeometry(curvature="secant")], every_n_steps=1)
    with told() as warnings:
        fit(Hooked(counted(mlp())), monitor, data=batches(12, batch_size=4))
    assert "2 times that of its loss" in warnings[0] or "0.5 times" in warnings[0]
    assert gradients_spent(steps=3) / 3 == pytest.approx(2.0)


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 1e-3}])
def test_by_secant_values_are_those_of_gradients_computed_anew(monkeypatch, options):
    histories = []
    for check_every in (20, 1):
        monkeypatch.setattr("curvwatch.measures.step_geometry._CHECK_EVERY", check_every)
        torch.manual_seed(0)
        monitor = CurvatureMonitor([StepGeometry(curvature="secant")], every_n_steps=1)
        fit(Classifier(mlp(dropout=0.2), adam), monitor, data=batches(24, batch_size=4), **options)
        histories.append(monitor.history)
    for name in StepGeometry.metrics:
        ours, twin = (h[name].values for h in histories)
        assert ours == pytest.approx(twin, rel=1e-4, abs=1e-7), name
