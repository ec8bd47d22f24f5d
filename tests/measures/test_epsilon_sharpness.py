"""Sharpness in a box and in a ball against closed forms, all corners, and L-BFGS-B."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from curvwatch import CurvatureMonitor, Objective
from curvwatch.measures.epsilon_sharpness import EpsilonSharpness
from curvwatch.objective.samples import RecordedBatch
from tests.measures.points import landscape, objective_of
from tests.support.cases import CASES, Attention, dense, flat
from tests.support.modules import Classifier, fit
from tests.support.studies import without

double = pytest.mark.usefixtures("double_precision")
BOX, SAM = "curvature/epsilon_sharpness", "curvature/sam_sharpness"


def read(objective, **options):
    with landscape(objective) as at:
        return EpsilonSharpness(**options).read(at)


class Weights(nn.Module):
    """Nothing but a vector."""

    def __init__(self, value):
        super().__init__()
        self.w = nn.Parameter(torch.as_tensor(value))


def of_weights(value, f):
    module = Weights(value)
    return Objective(module, lambda _: f(module.w), [RecordedBatch(torch.zeros(1))])


@double
@pytest.mark.parametrize("epsilon", [1e-3, 0.5])
def test_a_separable_quadratic_has_a_closed_form(epsilon):
    h, w = torch.rand(7) + 0.1, torch.randn(7)
    reading = read(of_weights(w, lambda w: (h * w**2).sum() / 2), epsilon=epsilon, rho=0.3)
    start = float((h * w**2).sum() / 2)
    highest = float((h * (w.abs() + epsilon * (w.abs() + 1)) ** 2).sum() / 2)
    assert reading.values[BOX] == pytest.approx(100 * (highest - start) / (1 + start), rel=1e-9)
    g = h * w
    moved = w + 0.3 * g / g.norm()
    assert reading.values[SAM] == pytest.approx(float((h * moved**2).sum() / 2) - start, rel=1e-9)
    assert not reading.notes


@double
def test_of_a_coupled_quadratic_it_stays_below_the_best_corner_and_near_it():
    shares = []
    for _ in range(20):
        A = torch.randn(8, 8)
        H, w = A @ A.T / 8, torch.randn(8)
        value = read(of_weights(w, lambda w, H=H: w @ H @ w / 2), epsilon=0.3).values[BOX]
        corners = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=8)))
        there = w + corners * 0.3 * (w.abs() + 1)
        start = float(w @ H @ w / 2)
        highest = float(((there @ H) * there).sum(1).max() / 2)
        shares.append(value / (100 * (highest - start) / (1 + start)))
    assert max(shares) <= 1 + 1e-9
    assert np.mean(shares) > 0.97


def function_of(case, model, batches):
    """f of flat weights with its gradient, by torch.func and the model written out."""
    names = [n for n, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    total = sum(len(x) for x, _ in batches)

    def f(values):
        w = torch.tensor(values, requires_grad=True)
        parts = w.split([n.numel() for n in shapes])
        weights = {n: p.view(k) for n, p, k in zip(names, parts, shapes, strict=True)}
        buffers = {n: b.clone() for n, b in model.named_buffers()}
        loss = sum(
            case.loss(functional_call(model, {**weights, **buffers}, (x,)), y) * len(x) / total
            for x, y in batches
        )
        loss.backward()
        return float(loss.detach()), w.grad.numpy()

    return f


@double
# either radius on the perceptrons, and one on a larger network
@pytest.mark.parametrize(
    ("epsilon", "name"),
    without(
        itertools.product([1e-3, 2e-2], CASES),
        leave=[(1e-3, "cnn_batchnorm"), (2e-2, "cnn_batchnorm"), (2e-2, "transformer_sdpa")],
    ),
)
def test_on_networks_it_finds_what_a_bounded_quasi_newton_search_finds(name, epsilon):
    optimize = pytest.importorskip("scipy.optimize")
    case = CASES[name]
    model = case.model()
    batches = [case.batch(6), case.batch(4)]
    w = flat(list(model.parameters()))
    reading = read(objective_of(case, model, batches), epsilon=epsilon, steps=20, rho=0.1)
    twin = dense(case, model, batches, w)
    if isinstance(model, Attention):
        model.by_hand = True
    f = function_of(case, model, batches)
    start = f(w.numpy())[0]
    width = epsilon * (w.abs() + 1).numpy()
    bounds = list(zip(w.numpy() - width, w.numpy() + width, strict=True))

    def down(v):
        value, gradient = f(v)
        return -value, -gradient

    found = optimize.minimize(
        down, w.numpy(), jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 100}
    )
    highest = 100 * (-found.fun - start) / (1 + start)
    assert reading.values[BOX] >= 0.98 * highest
    g = twin.gradient
    there = f((w + 0.1 * g / g.norm()).numpy())[0]
    assert reading.values[SAM] == pytest.approx(there - start, rel=1e-8)


@double
def test_more_steps_never_lower_it_and_the_gain_tells_of_the_end():
    case = CASES["mlp_mse"]
    model = case.model()
    objective = objective_of(case, model, [case.batch(6)])
    readings = [read(objective, epsilon=0.2, steps=n).values for n in (1, 2, 4, 8, 30)]
    values = [r[BOX] for r in readings]
    assert values == sorted(values)
    assert readings[-1]["curvature/epsilon_sharpness_gain"] < 1e-2
    assert readings[0]["curvature/epsilon_sharpness_gain"] == pytest.approx(1.0)


@double
def test_at_a_minimum_it_sets_out_at_random_and_sam_has_no_step():
    h = torch.tensor([3.0, 1.0])
    reading = read(of_weights([0.0, 0.0], lambda w: (h * w**2).sum() / 2), epsilon=0.1)
    assert reading.values[BOX] == pytest.approx(100 * 0.5 * 4.0 * 0.01)
    assert math.isnan(reading.values[SAM])
    assert "zero" in reading.notes[0]


@double
def test_what_cannot_be_had_is_missing_with_a_note():
    reading = read(of_weights([math.inf], lambda w: w.sum()))
    assert "loss is inf" in reading.notes[0]
    assert all(map(math.isnan, reading.values.values()))
    reading = read(of_weights([-3.0], lambda w: w.sum()))
    assert "positive" in reading.notes[0]
    assert math.isnan(reading.values[BOX])
    # beyond 1 there is no root
    reading = read(of_weights([0.5], lambda w: 2 - (1 - w).sqrt().sum()), epsilon=0.5)
    assert "not finite" in reading.notes[0]
    assert 0 < reading.values[BOX] < 100 * math.sqrt(0.5) / (3 - math.sqrt(0.5))


def test_a_rise_that_is_rounding_is_doubtful():
    w = torch.tensor([1.0])
    reading = read(of_weights(w, lambda w: 1e6 + w.square().sum()))
    assert reading.doubtful == (BOX, SAM)
    assert "rounding" in reading.doubts[0]
    assert not read(of_weights(w, lambda w: w.square().sum())).doubtful


def test_in_a_trainer_it_costs_steps_and_one_gradient_more():
    monitor = CurvatureMonitor(["epsilon_sharpness"], every_n_steps=1, on_error="raise")
    fit(Classifier(), monitor, max_steps=4)
    for name in EpsilonSharpness.metrics:
        assert (monitor.history[name].values >= 0).all(), name
    case = CASES["mlp_mse"]
    objective = objective_of(case, case.model(), [case.batch(6)])
    read(objective, steps=5)
    assert (objective.counts.gradients, objective.counts.forwards) <= (6, 1)


@pytest.mark.parametrize("options", [{"epsilon": 0}, {"rho": "a"}, {"steps": 0}, {"steps": True}])
def test_arguments_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        EpsilonSharpness(**options)
