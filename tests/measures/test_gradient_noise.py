"""The gradient noise scale against McCandlish's formulas and the covariance of a regression."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from curvwatch import CurvatureMonitor, Objective
from curvwatch.measures.gradient_noise import GradientNoise
from tests.measures.points import landscape, objective_of
from tests.support.cases import CASES, dense, flat
from tests.support.modules import Classifier, fit
from tests.support.studies import without

double = pytest.mark.usefixtures("double_precision")
NAMES = ("noise_trace", "signal", "noise_scale")
# sizes of batches
EVEN, UNEVEN = (6, 6, 6, 6), (6, 2, 5, 3)


def read(objective):
    with landscape(objective) as at:
        return GradientNoise().read(at)


def by_hand(gradients, sizes):
    """tr(S), |G|^2 and their quotient from batches of any sizes, by least squares of the mean."""
    total = sum(sizes)
    mean = sum(n * g for n, g in zip(sizes, gradients, strict=True)) / total
    squares = sum(n * (g - mean) @ (g - mean) for n, g in zip(sizes, gradients, strict=True))
    trace = squares / (len(sizes) - 1)
    signal = mean @ mean - trace / total
    return torch.stack([trace, signal, trace / signal])


def mccandlish(gradients, size):
    """Appendix A.1, of a small batch and the big one that all are together."""
    big = size * len(gradients)
    mean = torch.stack(gradients).mean(0)
    small_square = torch.stack([g @ g for g in gradients]).mean()
    signal = (big * mean @ mean - size * small_square) / (big - size)
    trace = (small_square - mean @ mean) / (1 / size - 1 / big)
    return torch.stack([trace, signal, trace / signal])


@double
# batches of one size on the perceptrons, and of several on all networks
@pytest.mark.parametrize(
    ("sizes", "name"),
    without(
        itertools.product([EVEN, UNEVEN], CASES),
        leave=[(EVEN, "cnn_batchnorm"), (EVEN, "transformer_sdpa")],
    ),
    ids=lambda value: {EVEN: "sizes0", UNEVEN: "sizes1"}.get(value, value),
)
def test_noise_equals_that_of_dense_gradients(name, sizes):
    case = CASES[name]
    model = case.model()
    batches = [case.batch(n) for n in sizes]
    at = flat(list(model.parameters()))
    gradients = [dense(case, model, [b], at).gradient for b in batches]
    expected = by_hand(gradients, sizes)
    if len(set(sizes)) == 1:
        assert torch.allclose(expected, mccandlish(gradients, sizes[0]))
    reading = read(objective_of(case, model, batches))
    assert set(reading.values) == set(GradientNoise.metrics)
    if expected[1] <= 0:
        assert "noise hides" in reading.notes[0]
        expected[2] = math.nan
    for key, value in zip(NAMES, expected, strict=True):
        read_value = reading.values[f"gradient/{key}"]
        assert read_value == pytest.approx(float(value), rel=1e-8, nan_ok=True), key
    left = []
    for out in range(len(sizes)):
        kept = [i for i in range(len(sizes)) if i != out]
        left.append(by_hand([gradients[i] for i in kept], [sizes[i] for i in kept]))
    left = torch.stack(left)
    share = (len(sizes) - 1) / len(sizes)
    errors = ((left - left.mean(0)).square().sum(0) * share).sqrt()
    for key, value in zip(NAMES[:2], errors[:2], strict=True):
        assert reading.values[f"gradient/{key}_stderr"] == pytest.approx(float(value), rel=1e-8), key


SCALES, SLOPE, NOISE = (2.0, 1.0, 0.5), (1.0, -1.0, 2.0), 0.5


def regression(batches, size=4):
    """f = mean (x . w - y)^2 / 2 at w = 0 of y = x . SLOPE + noise; its S and G are known."""
    net = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        net.weight.zero_()
    samples = []
    for _ in range(batches):
        x = (torch.rand(size, 3) * 2 - 1) * math.sqrt(3) * torch.tensor(SCALES)
        samples.append((x, x @ torch.tensor(SLOPE) + NOISE * torch.randn(size)))
    return Objective.of_batches(net, lambda b: (net(b[0])[:, 0] - b[1]).square().mean() / 2, samples)


def closed_form():
    """g = -x y of an example: E g = -diag(a^2) s and E|g|^2 = E|x|^2 (x . s + noise)^2."""
    a2, s = np.square(SCALES), np.array(SLOPE)
    fourth = 9 / 5 * a2**2  # of a uniform entry
    signal = float(np.square(a2 * s).sum())
    # E |x|^2 (x . s)^2 = sum_i s_i^2 (E x_i^4 + a_i^2 sum_{j != i} a_j^2)
    second = float((s**2 * (fourth + a2 * (a2.sum() - a2))).sum()) + NOISE**2 * a2.sum()
    return second - signal, signal, (second - signal) / signal


@pytest.mark.study
@double
def test_a_regression_errs_as_it_says_and_at_the_rate_of_sampling():
    limits, errors, told = closed_form(), [], []
    counts = 8, 64
    for count in counts:
        seen = [read(regression(count)).values for _ in range(80)]
        off = np.array([[v[f"gradient/{k}"] for k in NAMES] for v in seen]) - limits
        errors.append(np.sqrt(np.nanmean(off**2, axis=0)))
        spread = np.array([[v[f"gradient/{k}_stderr"] for k in NAMES] for v in seen])
        told.append(np.sqrt(np.nanmean(spread**2, axis=0)))
        # without bias
        assert (abs(off[:, :2].mean(0)) < 4 * errors[-1][:2] / math.sqrt(80)).all()
    slopes = np.log(errors[1] / errors[0]) / math.log(counts[1] / counts[0])
    assert np.allclose(slopes, -0.5, atol=0.15)
    assert np.allclose(errors[1] / told[1], 1.0, atol=0.2)


@double
def test_a_gradient_that_noise_covers_has_no_scale():
    covered = []
    for _ in range(20):
        xs = [torch.randn(4, 3) + 0.1 for _ in range(5)]
        net = nn.Linear(3, 1, bias=False)
        reading = read(Objective.of_batches(net, lambda x, net=net: net(x).mean(), xs))
        covered.append(reading.values["gradient/signal"] <= 0)
        assert math.isnan(reading.values["gradient/noise_scale"]) == covered[-1]
        assert (len(reading.notes) == 1) == covered[-1]
    assert 0 < sum(covered) < 20


@double
def test_too_few_batches_and_broken_ones_are_told():
    reading = read(regression(1))
    assert "two batches" in reading.notes[0]
    assert all(map(math.isnan, reading.values.values()))
    reading = read(regression(2))
    assert math.isfinite(reading.values["gradient/noise_trace"])
    assert math.isnan(reading.values["gradient/noise_trace_stderr"])
    objective = regression(3)
    objective.samples[1].batch[0][0, 0] = math.nan
    assert "not finite" in read(objective).notes[0]


def test_in_a_trainer_it_shares_the_gradient_of_the_reading():
    monitor = CurvatureMonitor(["gradient_noise"], every_n_steps=1, probe_batches=6, on_error="raise")
    fit(Classifier(), monitor, max_steps=6)
    assert set(GradientNoise.metrics) <= set(monitor.history)
    assert monitor.history["gradient/noise_trace"].values[-1] > 0
    objective = regression(4)
    with landscape(objective) as at:
        at.objective.linearize()
        before = objective.counts.gradients
        GradientNoise().read(at)
    assert objective.counts.gradients == before + 1
