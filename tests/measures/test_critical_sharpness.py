"""The critical learning rate against closed forms and a dense scan of the line."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

from curvwatch import CurvatureMonitor, Objective
from curvwatch.measures.base import Landscape
from curvwatch.measures.critical_sharpness import CriticalSharpness
from curvwatch.objective.samples import RecordedBatch
from curvwatch.stability import stability_law
from tests.measures.points import landscape, objective_of
from tests.support.cases import CASES, Attention, dense, flat
from tests.support.modules import Classifier, batches, fit, told
from tests.support.studies import without

double = pytest.mark.usefixtures("double_precision")
LR = 0.1  # of `landscape`


def read(objective, d, *, memory=None, **options):
    with landscape(objective, memory=memory, update=lambda: d) as at:
        return CriticalSharpness(**options).read(at)


class Weights(nn.Module):
    """Nothing but a vector."""

    def __init__(self, value):
        super().__init__()
        self.w = nn.Parameter(torch.as_tensor(value))


def of_weights(value, f):
    module = Weights(value)
    return Objective(module, lambda _: f(module.w), [RecordedBatch(torch.zeros(1))])


@double
@pytest.mark.parametrize("length", [1e-3, 0.3, 7.0, 400.0])
def test_on_a_quadratic_it_is_the_curvature_along_the_step(length):
    A = torch.randn(6, 6)
    H = A @ A.T + torch.eye(6)
    w = torch.randn(6)
    g = H @ w
    exact = float(g @ H @ g / (g @ g))
    # a step at LR whose length is that of the gradient's times `length`
    objective = of_weights(w, lambda w: w @ H @ w / 2)
    for tolerance in (2**-4, 2**-10):
        reading = read(objective, -LR * length * g, tolerance=tolerance, max_forwards=60)
        value = reading.values["curvature/critical_sharpness"]
        error = reading.values["curvature/critical_sharpness_error"]
        assert not reading.notes
        assert not reading.doubts
        assert error <= tolerance
        assert abs(value / (length * exact) - 1) <= error
        ratio = reading.values["curvature/critical_ratio"]
        assert ratio == pytest.approx(value * LR / 2)
    d = torch.randn(6)
    d = d if g @ d < 0 else -d
    reading = read(objective, d)
    expected = float(d @ H @ d / (-2 * g @ d))
    error = reading.values["curvature/critical_sharpness_error"]
    assert abs(reading.values["curvature/critical_ratio"] / expected - 1) <= error


def scanned(case, model, batches, d, most):
    """The first multiple of d, up to `most`, at which the loss is above that at 0; and the grid."""
    if isinstance(model, Attention):
        model.by_hand = True
    names = [n for n, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    w = flat(list(model.parameters()))
    total = sum(len(x) for x, _ in batches)

    def f(s):
        parts = (w + s * d).split([n.numel() for n in shapes])
        weights = {n: p.view(k) for n, p, k in zip(names, parts, shapes, strict=True)}
        buffers = {n: b.clone() for n, b in model.named_buffers()}
        return sum(
            float(case.loss(functional_call(model, {**weights, **buffers}, (x,)), y)) * len(x) / total
            for x, y in batches
        )

    with torch.no_grad():
        start = f(0.0)
        steps = 1000
        found = next(s for s in (most * (i + 1) / steps for i in range(steps)) if f(s) > start)
    if isinstance(model, Attention):
        model.by_hand = False
    return found, most / steps


@double
@pytest.mark.parametrize("name", without(CASES, leave=["cnn_batchnorm"]))
def test_on_networks_it_is_where_a_scan_of_the_line_finds_it(name):
    case = CASES[name]
    model = case.model()
    of_probe = [case.batch(6), case.batch(4)]
    g = dense(case, model, of_probe, flat(list(model.parameters()))).gradient
    d = -LR * g * (1 + torch.rand_like(g))
    values = read(objective_of(case, model, of_probe), d).values
    critical = 1 / values["curvature/critical_ratio"]
    found, step = scanned(case, model, of_probe, d, 1.3 * critical)
    assert abs(critical - found) <= values["curvature/critical_sharpness_error"] * critical + step


@double
def test_a_warm_start_takes_six_forward_passes_and_follows_the_learning_rate():
    H = torch.diag(torch.tensor([5.0, 1.0]))
    memory, forwards = {}, []
    for i in range(6):
        w = torch.tensor([1.0, 2.0]) * 0.95**i
        objective = of_weights(w, lambda w: w @ H @ w / 2)
        # the learning rate falls: eta_c stays
        rate = LR / 2**i
        law = stability_law(torch.optim.SGD(objective.params, lr=rate))
        with objective.open() as f:
            at = Landscape(
                f, [rate], law, memory, torch.Generator(), lambda w=w, rate=rate: -rate * (H @ w)
            )
            values = CriticalSharpness().read(at).values
        forwards.append(values["curvature/critical_forwards"])
        assert forwards[-1] == objective.counts.forwards
        assert objective.counts.gradients == 0
    assert max(forwards[1:]) <= 7
    assert memory.keys() == {"critical"}


@double
def test_a_loss_that_is_not_finite_is_a_rise():
    objective = of_weights([2.0], lambda w: torch.sqrt(w - 1).sum())  # of w < 1 there is no root
    reading = read(objective, torch.tensor([-0.5]))
    error = reading.values["curvature/critical_sharpness_error"]
    assert abs(reading.values["curvature/critical_ratio"] * 2 - 1) <= error
    assert not reading.doubts


@double
def test_without_a_crossing_there_is_no_value_and_a_note():
    def missing(reading):
        assert math.isnan(reading.values["curvature/critical_sharpness"])
        return reading.notes[0]

    line = of_weights([1.0], lambda w: w.sum())
    memory = {}
    assert "no rise" in missing(read(line, torch.tensor([-1.0]), memory=memory))
    assert "uphill" in missing(read(line, torch.tensor([1.0]), memory=memory))
    assert not memory
    assert line.counts.forwards == 2 * 20
    with landscape(line, update=lambda: torch.tensor([1.0])) as at:
        at.objective.gradient()
        before = line.counts.forwards
        assert "g . d" in missing(CriticalSharpness().read(at))
    assert line.counts.forwards == before
    assert "did not move" in missing(read(line, torch.tensor([0.0])))
    assert "not finite" in missing(read(line, torch.tensor([math.nan])))
    broken = of_weights([math.nan], lambda w: w.sum())
    assert "loss is nan" in missing(read(broken, torch.tensor([1.0])))
    with landscape(line) as at:
        assert "no step was recorded" in missing(CriticalSharpness().read(at))


def test_a_bracket_of_rounding_is_doubtful():
    objective = of_weights(torch.tensor([1e-4]), lambda w: 1000 + w.square().sum())
    reading = read(objective, torch.tensor([-1e-6]))
    assert reading.doubtful == CriticalSharpness.metrics[:3]
    assert "rounding" in reading.doubts[0]
    objective = of_weights(torch.tensor([3.0]), lambda w: 1 + w.square().sum())
    assert not read(objective, torch.tensor([-1.0])).doubtful


def test_in_a_trainer_it_spends_forward_passes_alone():
    monitor = CurvatureMonitor(
        ["critical_sharpness"], every_n_steps=1, probe="current", on_error="raise"
    )
    with told():
        fit(Classifier(), monitor, max_steps=6, data=batches(batch_size=12))
    h = monitor.history
    assert (h["curvature/critical_ratio"].values < 1).all()
    assert (h["curvature/critical_sharpness"].values > 0).all()
    assert (h["curvature/cost_hvps"].values == 0).all()


@pytest.mark.parametrize("options", [{"tolerance": 0}, {"tolerance": "a"}, {"max_forwards": 2}])
def test_arguments_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        CriticalSharpness(**options)
