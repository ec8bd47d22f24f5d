"""Batch sharpness and interaction-aware sharpness against dense twins and a regression."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from curvwatch import CurvatureMonitor, CurvwatchError, Objective
from curvwatch.measures.base import Landscape
from curvwatch.measures.batch_sharpness import BatchSharpness
from curvwatch.stability import stability_law
from tests.measures.points import landscape, objective_of
from tests.support.cases import CASES, dense, flat
from tests.support.modules import Classifier, fit
from tests.support.studies import only

double = pytest.mark.usefixtures("double_precision")
NAMES = ("batch_sharpness", "interaction_sharpness")


def read(objective, **options):
    with landscape(objective) as at:
        return BatchSharpness(**options).read(at)


def by_hand(gradients, hessians, weights):
    """Both, from dense matrices."""
    terms = list(zip(weights, gradients, hessians, strict=True))
    size = sum(w * g @ g for w, g, _ in terms)
    whole = sum(w * H for w, _, H in terms)
    own = sum(w * g @ H @ g / (g @ g) for w, g, H in terms)
    return own, sum(w * g @ whole @ g for w, g, _ in terms) / size


def jackknifed(gradients, hessians):
    """Standard errors by leaving out each batch, all of one size."""
    k = len(gradients)
    left = []
    for out in range(k):
        kept = [i for i in range(k) if i != out]
        of = [gradients[i] for i in kept], [hessians[i] for i in kept]
        left.append(torch.stack(by_hand(*of, [1 / (k - 1)] * (k - 1))))
    left = torch.stack(left)
    return ((left - left.mean(0)).square().sum(0) * (k - 1) / k).sqrt()


@double
@pytest.mark.parametrize("name", CASES)
def test_both_equal_the_dense_ones(name):
    case = CASES[name]
    model = case.model()
    batches = [case.batch(n) for n in (6, 4, 6)]
    at = flat(list(model.parameters()))
    twins = [dense(case, model, [b], at) for b in batches]
    weights = [6 / 16, 4 / 16, 6 / 16]
    expected = by_hand([t.gradient for t in twins], [t.hessian for t in twins], weights)
    for chunking in (None, 2) if name != "cnn_batchnorm" else (None,):
        reading = read(objective_of(case, model, batches, chunking=chunking))
        assert set(reading.values) == set(BatchSharpness.metrics)
        assert reading.notes == reading.doubts == ()
        for key, value in zip(NAMES, expected, strict=True):
            assert reading.values[f"curvature/{key}"] == pytest.approx(float(value), rel=1e-9), key
        ratio = reading.values["curvature/batch_stability_ratio"]
        assert ratio == pytest.approx(float(expected[0]) * 0.1 / 2, rel=1e-9)


@double
@pytest.mark.parametrize(
    "name", only(["mlp_cross_entropy", "transformer_sdpa"], take=["mlp_cross_entropy"])
)
def test_standard_errors_are_those_of_a_jackknife(name):
    case = CASES[name]
    model = case.model()
    batches = [case.batch(3) for _ in range(24)]
    at = flat(list(model.parameters()))
    twins = [dense(case, model, [b], at) for b in batches]
    expected = jackknifed([t.gradient for t in twins], [t.hessian for t in twins])
    values = read(objective_of(case, model, batches)).values
    for key, value in zip(NAMES, expected, strict=True):
        assert values[f"curvature/{key}_stderr"] == pytest.approx(float(value), rel=0.15), key


SCALES, WEIGHTS = (2.0, 1.0, 0.5), (1.0, -1.0, 2.0)


def inputs(*shape):
    """Of variance SCALES^2, without tails."""
    return (torch.rand(*shape, 3) * 2 - 1) * math.sqrt(3) * torch.tensor(SCALES)


def regression(batches, size=4):
    """f = mean (x . w)^2 / 2 of one weight vector: g_B = H_B w, H_B the mean of x x'."""
    net = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([WEIGHTS]))
    batches = [inputs(size) for _ in range(batches)]
    return Objective.of_batches(net, lambda x: net(x).square().mean() / 2, batches)


def limits(size=4):
    """Of ever more batches: from a long draw of g_B, and E[x x'] = diag(SCALES^2)."""
    x = inputs(200_000, size)
    g = (x * (x @ torch.tensor(WEIGHTS))[..., None]).mean(1)
    sizes = g.square().sum(1)
    norm = sizes.mean()
    own = (x @ g[..., None]).square().mean((1, 2)) / sizes
    return float(own.mean()), float((g.square() @ torch.tensor(SCALES).square()).mean() / norm)


@pytest.mark.study
@double
@pytest.mark.parametrize(("name", "counts"), [(NAMES[0], (8, 64)), (NAMES[1], (4, 16))])
def test_a_regression_errs_as_it_says_and_at_the_rate_of_sampling(name, counts):
    limit = dict(zip(NAMES, limits(), strict=True))[name]
    errors, told = [], []
    for count in counts:
        seen = [read(regression(count), interaction=name == NAMES[1]).values for _ in range(40)]
        off = [v[f"curvature/{name}"] - limit for v in seen]
        errors.append(math.sqrt(np.mean(np.square(off))))
        told.append(math.sqrt(np.mean([v[f"curvature/{name}_stderr"] ** 2 for v in seen])))
    slope = math.log(errors[1] / errors[0]) / math.log(counts[1] / counts[0])
    assert slope == pytest.approx(-0.5, abs=0.2)
    assert errors[1] == pytest.approx(told[1], rel=0.3)


@double
def test_one_batch_has_its_own_curvature_and_no_error():
    objective = regression(1)
    x = objective.samples[0].batch
    H = x.T @ x / len(x)
    g = H @ torch.tensor(WEIGHTS)
    reading = read(objective)
    quotient = pytest.approx(float(g @ H @ g / (g @ g)))
    assert reading.values["curvature/batch_sharpness"] == quotient
    assert reading.values["curvature/interaction_sharpness"] == quotient
    assert math.isnan(reading.values["curvature/batch_sharpness_stderr"])
    assert "one batch" in reading.notes[0]


@double
def test_what_cannot_be_had_is_missing_with_a_note():
    objective = regression(3)
    with torch.no_grad():
        objective.params[0].zero_()
    reading = read(objective)
    assert "zero" in reading.notes[0]
    assert all(map(math.isnan, reading.values.values()))
    with torch.no_grad():
        objective.params[0].fill_(math.inf)
    reading = read(objective)
    assert "not finite" in reading.notes[0]
    assert all(map(math.isnan, reading.values.values()))
    objective = Objective.of_batches(
        objective.module, objective.loss_fn, [s.batch for s in objective.samples], hvp="difference"
    )
    with pytest.raises(CurvwatchError, match="automatic differentiation"):
        read(objective)


@double
def test_groups_with_several_learning_rates_have_no_one_edge():
    net = nn.Linear(3, 1)
    objective = Objective.of_batches(
        net, lambda x: net(x).square().mean(), [inputs(4) for _ in range(3)]
    )
    law = stability_law(torch.optim.SGD(objective.params, lr=0.1))
    with objective.open() as f:
        at = Landscape(f, [0.1, 0.2], law, {}, torch.Generator())
        reading = BatchSharpness(interaction=False).read(at)
    assert math.isnan(reading.values["curvature/batch_stability_ratio"])
    assert "learning rates" in reading.notes[0]
    assert not any("interaction" in name for name in reading.values)


def test_in_a_trainer_it_reads_all_batches_of_the_probe():
    monitor = CurvatureMonitor(["batch_sharpness"], every_n_steps=1, probe_batches=3, on_error="raise")
    fit(Classifier(), monitor, max_steps=6)
    assert set(BatchSharpness.metrics) <= set(monitor.history)
    for name in BatchSharpness.metrics:
        assert torch.isfinite(torch.tensor(monitor.history[name].values[-1])), name


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="interaction"):
        BatchSharpness(interaction=1)


@double
def test_a_batch_without_a_direction_is_left_out():
    objective = regression(3)
    (net,) = [objective.module]
    quotients = []
    for sample in objective.samples:
        x = sample.batch
        H = x.T @ x / len(x)
        g = H @ net.weight[0].detach()
        quotients.append(float(g @ H @ g / (g @ g)))
    objective.samples[1].batch.zero_()
    values = read(objective, interaction=False).values
    assert values["curvature/batch_sharpness"] == pytest.approx((quotients[0] + quotients[2]) / 2)
