"""Eigenvalue, trace and distance of the Gauss-Newton matrix against dense twins."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from curvwatch import CurvatureMonitor, Objective, Watch
from curvwatch.measures import GaussNewton
from curvwatch.objective.samples import RecordedBatch
from tests.measures.output_twins import gauss_newton_of_case
from tests.measures.points import landscape, objective_of
from tests.support.cases import CASES, dense, flat
from tests.support.modules import Classifier, batches, fit, mlp, told
from tests.support.studies import only
from tests.training.loop.loops import loop, loss_fn

pytestmark = pytest.mark.usefixtures("double_precision")


@pytest.mark.parametrize("name", only(CASES, take=["mlp_cross_entropy"]))
def test_every_value_equals_its_dense_twin(name):
    case = CASES[name]
    model = case.model()
    batches = [case.batch(6), case.batch(3)]
    hessian = dense(case, model, batches, flat(list(model.parameters()))).hessian
    G = gauss_newton_of_case(case, model, batches)
    with landscape(objective_of(case, model, batches)) as at:
        reading = GaussNewton(rtol=1e-6, probes=40).read(at)
    values = reading.values
    assert tuple(values) == GaussNewton.metrics
    assert not reading.doubts
    assert not reading.notes
    top = float(torch.linalg.eigvalsh(G)[-1])
    assert values["gauss_newton/lambda_max"] == pytest.approx(top, rel=1e-6)
    assert values["gauss_newton/lambda_max_residual"] <= 1e-6
    exact = {"trace": float(G.trace()), "distance": float((hessian - G).norm() / hessian.norm())}
    for key, twin in exact.items():
        error = values[f"gauss_newton/{key}_stderr"]
        assert values[f"gauss_newton/{key}"] == pytest.approx(twin, abs=4 * error)
        assert error < 0.5 * twin
    rest = float(torch.linalg.eigvalsh(hessian - G)[-1])
    assert values["gauss_newton/rest_lambda_max"] == pytest.approx(rest, rel=1e-6)
    assert values["gauss_newton/rest_lambda_max_residual"] <= 1e-6
    (density,) = reading.histograms.values()
    middle = (density.edges[1:] + density.edges[:-1]) / 2
    assert float(density.weights.sum()) == pytest.approx(1.0, abs=1e-6)
    assert density.edges[-1] > top
    # the trace of two random vectors
    of_two = values["gauss_newton/trace_stderr"] * math.sqrt(40 / 2)
    mean = len(G) * float(density.weights @ middle)
    assert mean == pytest.approx(values["gauss_newton/trace"], abs=4 * of_two)


@pytest.mark.study
def test_standard_errors_are_those_of_repeated_readings_and_fall_with_the_root():
    case = CASES["mlp_cross_entropy"]
    model = case.model()
    batches = [case.batch(6)]
    hessian = dense(case, model, batches, flat(list(model.parameters()))).hessian
    G = gauss_newton_of_case(case, model, batches)
    exact = float(G.trace()), float((hessian - G).norm() / hessian.norm())
    spread = {}
    with landscape(objective_of(case, model, batches)) as at:
        for probes in (4, 32):
            measure = GaussNewton(probes=probes, density_probes=0, rtol=0.9, max_products=1)
            rows = [list(measure.read(at).values.values())[2:6] for _ in range(50)]
            traces, of_traces, distances, of_distances = np.array(rows).T
            for seen, told_errors, twin in zip(
                (traces, distances), (of_traces, of_distances), exact, strict=True
            ):
                assert np.sqrt(np.mean(told_errors**2)) == pytest.approx(np.std(seen), rel=0.35)
                assert np.mean(seen) == pytest.approx(twin, abs=np.std(seen) * (0.5 + 2 / probes))
            spread[probes] = np.std(traces), np.std(distances)
    slopes = np.polyfit(np.log(list(spread)), np.log(np.array(list(spread.values()))), 1)[0]
    np.testing.assert_allclose(slopes, -0.5, atol=0.15)


def test_of_a_linear_model_it_is_the_hessian():
    model = nn.Linear(4, 3)
    x, y = torch.randn(7, 4), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    objective = Objective(model, lambda x: F.cross_entropy(model(x), y), [RecordedBatch(x)])
    with landscape(objective) as at:
        values = GaussNewton().read(at).values
    assert values["gauss_newton/distance"] < 1e-12
    assert values["gauss_newton/distance_stderr"] < 1e-12
    assert abs(values["gauss_newton/rest_lambda_max"]) < 1e-12


def test_linear_regression_has_the_closed_form():
    model = nn.Linear(3, 1, bias=False)
    x, y = torch.randn(9, 3), torch.randn(9, 1)
    objective = Objective(model, lambda x: F.mse_loss(model(x), y), [RecordedBatch(x)])
    with landscape(objective) as at:
        values = GaussNewton(rtol=1e-8).read(at).values
    top = float(torch.linalg.eigvalsh(2 * x.T @ x / 9)[-1])
    assert values["gauss_newton/lambda_max"] == pytest.approx(top, rel=1e-8)


def test_a_warm_reading_finds_an_eigenvalue_that_rose_from_below():
    model = nn.Linear(3, 1, bias=False)
    memory = {}
    for scales in ([5.0, 1.0, 0.1], [1.0, 6.0, 0.1]):
        x = torch.diag(torch.tensor(scales))
        objective = Objective(model, lambda x: F.mse_loss(model(x), x[:, :1]), [RecordedBatch(x)])
        with landscape(objective, memory=memory) as at:
            values = GaussNewton().read(at).values
        top = 2 * max(scales) ** 2 / 3
        assert values["gauss_newton/lambda_max"] == pytest.approx(top, rel=1e-4)


def test_a_loss_without_second_derivative_has_a_zero_matrix():
    model = CASES["mlp_mse"].model()
    x = torch.randn(5, 6)
    objective = Objective(model, lambda x: F.l1_loss(model(x), torch.zeros(5, 4)), [RecordedBatch(x)])
    with landscape(objective) as at:
        reading = GaussNewton().read(at)
    assert not reading.doubts
    assert reading.values["gauss_newton/lambda_max"] == 0.0
    assert reading.values["gauss_newton/trace"] == 0.0
    assert reading.values["gauss_newton/distance"] == 1.0


def test_outputs_that_the_user_gives_leave_the_regulariser_to_the_hessian():
    model = nn.Linear(4, 3)
    x, y = torch.randn(7, 4), torch.tensor([0, 1, 2, 0, 1, 2, 0])

    def loss(x):
        return F.cross_entropy(model(x), y) + 0.5 * model.weight.square().sum()

    measure = GaussNewton(outputs_fn=model, loss_of_outputs=lambda z, _: F.cross_entropy(z, y))
    with landscape(Objective(model, loss, [RecordedBatch(x)])) as at:
        reading = measure.read(at)
        H = torch.stack([at.objective.linearize().product(row) for row in torch.eye(15)])
    # what is left of the Hessian is the identity on the 12 weights that are regularised
    assert reading.values["gauss_newton/distance"] == pytest.approx(
        math.sqrt(12) / float(H.norm()), abs=4 * reading.values["gauss_newton/distance_stderr"]
    )
    assert "that of training" in reading.notes[0]


def test_products_that_are_not_finite_leave_no_value():
    model = nn.Linear(2, 1)
    objective = Objective(
        model, lambda x: F.mse_loss(model(x), x[:, :1]) * math.inf, [RecordedBatch(torch.ones(3, 2))]
    )
    with landscape(objective) as at:
        reading = GaussNewton().read(at)
    assert all(math.isnan(v) for v in reading.values.values())
    assert reading.notes


@pytest.mark.parametrize(
    "options",
    [
        {"outputs_fn": len},
        {"loss_of_outputs": 3, "outputs_fn": len},
        {"probes": 1},
        {"density_probes": -1},
        {"density_steps": 1},
        {"rtol": 0},
        {"rtol": "1"},
        {"max_products": True},
    ],
)
def test_options_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        GaussNewton(**options)


class Regularised(Classifier):
    """A loss with a term that does not go through the outputs."""

    def loss(self, batch):
        return super().loss(batch) + 1e-3 * self.net[0].weight.square().sum()


def test_in_a_run_and_what_it_says_where_the_outputs_are_not_clear():
    torch.set_default_dtype(torch.float32)
    trainer = fit(Classifier(), CurvatureMonitor(["gauss_newton"], every_n_steps=3))
    read = trainer.logger.values("gauss_newton/lambda_max")
    assert len(read) == 2
    assert min(read) > 0
    with told() as texts:
        trainer = fit(Regularised(), CurvatureMonitor(["gauss_newton"], every_n_steps=3))
    assert len(texts) == 1
    assert "outputs_fn=" in texts[0]
    assert np.isnan(trainer.logger.values("gauss_newton/trace")).all()
    module = Regularised()
    measure = GaussNewton(
        outputs_fn=lambda batch: module.net(batch[0]),
        loss_of_outputs=lambda z, batch: F.cross_entropy(z, batch[1]),
    )
    trainer = fit(module, CurvatureMonitor([measure], every_n_steps=3))
    assert np.isfinite(trainer.logger.values("gauss_newton/trace")).all()


def test_in_a_loop_of_the_users_own():
    torch.set_default_dtype(torch.float32)
    read = []
    for given in (False, True):
        torch.manual_seed(0)
        net = mlp()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        measure = GaussNewton(
            outputs_fn=lambda batch, net=net: net(batch[0]),
            loss_of_outputs=lambda z, batch: F.cross_entropy(z, batch[1]),
        )
        with Watch(net, optimizer, loss_fn, [measure if given else "gauss_newton"]) as watch:
            loop(net, optimizer, data=batches(4), watch=watch)
        assert not watch.history.notes
        read.append(watch.history["gauss_newton/trace"].values)
    assert read[0] == pytest.approx(read[1], rel=1e-4)
    assert min(read[0]) > 0
