"""Eigenvalue, trace, cosine and overlap of the Fisher matrix against dense twins."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from curvwatch import CurvatureMonitor, CurvwatchError, Objective
from curvwatch.measures import Fisher
from curvwatch.objective.samples import RecordedBatch
from tests.measures.output_twins import gauss_newton_of_case
from tests.measures.points import landscape, objective_of
from tests.operators.test_fisher_operator import empirical_of
from tests.support.cases import CASES, dense, flat
from tests.support.modules import Classifier, fit, told
from tests.support.studies import only

pytestmark = pytest.mark.usefixtures("double_precision")


def twins_of(case, model, batches, kind):
    """H and F; of "mc" the true F."""
    hessian = dense(case, model, batches, flat(list(model.parameters()))).hessian
    make = empirical_of if kind == "empirical" else gauss_newton_of_case
    return hessian, make(case, model, batches)


def aligned(A, B):
    return float((A * B).sum() / (A.norm() * B.norm()))


# each kind on a perceptron, and one on another network
@pytest.mark.parametrize(
    ("name", "kind"),
    only(
        itertools.product(CASES, ["type1", "empirical", "mc"]),
        take=[
            *(("mlp_cross_entropy", kind) for kind in ("type1", "empirical", "mc")),
            ("cnn_batchnorm", "type1"),
        ],
    ),
)
def test_every_value_equals_its_dense_twin(name, kind):
    case = CASES[name]
    model = case.model()
    batches = [case.batch(6), case.batch(3)]
    H, F_ = twins_of(case, model, batches, kind)
    measure = Fisher(kind, k=2, rtol=1e-6, probes=40, max_products=300)
    with landscape(objective_of(case, model, batches)) as at:
        reading = measure.read(at)
    values = reading.values
    assert tuple(values) == Fisher.metrics
    assert not reading.doubts
    for key, twin in {"trace": float(F_.trace()), "cosine": aligned(H, F_)}.items():
        error = values[f"fisher/{key}_stderr"]
        assert values[f"fisher/{key}"] == pytest.approx(twin, abs=4 * error)
        assert error < 0.7 * abs(twin) + 0.05
    assert values["fisher/lambda_max_residual"] <= 1e-6
    if kind != "mc":
        tops = [torch.linalg.eigh(A)[1][:, -2:] for A in (H, F_)]
        overlap = float((tops[0].T @ tops[1]).square().sum()) / 2
        assert values["fisher/overlap"] == pytest.approx(overlap, abs=1e-5)
        top = float(torch.linalg.eigvalsh(F_)[-1])
        assert values["fisher/lambda_max"] == pytest.approx(top, rel=1e-6)


@pytest.mark.study
@pytest.mark.parametrize("kind", ["type1", "mc"])
def test_standard_errors_are_those_of_repeated_readings_and_fall_with_the_root(kind):
    case = CASES["mlp_cross_entropy"]
    model = case.model()
    batches = [case.batch(6)]
    H, F_ = twins_of(case, model, batches, kind)
    exact = float(F_.trace()), aligned(H, F_)
    spread = {}
    with landscape(objective_of(case, model, batches)) as at:
        for probes in (8, 16, 64):
            measure = Fisher(kind, probes=probes, rtol=0.9, max_products=1)
            rows = [list(measure.read(at).values.values())[2:6] for _ in range(20)]
            traces, of_traces, cosines, of_cosines = np.array(rows).T
            for seen, errors, twin in zip(
                (traces, cosines), (of_traces, of_cosines), exact, strict=True
            ):
                assert np.mean(seen) == pytest.approx(twin, abs=np.std(seen) * (0.75 + 4 / probes))
                if probes == 64:
                    assert np.sqrt(np.mean(errors**2)) == pytest.approx(np.std(seen), rel=0.4)
            spread[probes] = np.std(traces), np.std(cosines)
    slopes = np.polyfit(np.log(list(spread)), np.log(np.array(list(spread.values()))), 1)[0]
    np.testing.assert_allclose(slopes, -0.5, atol=0.25)


def test_softmax_regression_has_the_closed_form_and_is_its_hessian():
    model = nn.Linear(4, 3, bias=False)
    x, y = torch.randn(7, 4), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    p = model(x).softmax(1).detach()
    twin = sum(
        torch.kron(torch.diag(q) - torch.outer(q, q), torch.outer(row, row))
        for q, row in zip(p, x, strict=True)
    )
    with landscape(Objective(model, lambda x: F.cross_entropy(model(x), y), [RecordedBatch(x)])) as at:
        values = Fisher("type1", rtol=1e-8).read(at).values
    top = float(torch.linalg.eigvalsh(twin / 7)[-1])
    assert values["fisher/lambda_max"] == pytest.approx(top, rel=1e-8)
    assert values["fisher/cosine"] == pytest.approx(1.0, abs=1e-12)
    assert values["fisher/cosine_stderr"] < 1e-12
    assert values["fisher/overlap"] == pytest.approx(1.0, abs=1e-8)


def test_a_hessian_that_is_zero_has_no_cosine():
    model = nn.Linear(3, 2)
    objective = Objective(
        model, lambda x: F.l1_loss(model(x), x[:, :2]), [RecordedBatch(torch.randn(4, 3))]
    )
    with landscape(objective) as at:
        reading = Fisher("type1").read(at)
    assert math.isnan(reading.values["fisher/cosine"])
    assert reading.notes
    assert reading.values["fisher/trace"] > 0


@pytest.mark.parametrize(
    "options",
    [{"kind": "true"}, {"k": 0}, {"k": True}, {"probes": 1}, {"rtol": 1}, {"loss_of_outputs": len}],
)
def test_options_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Fisher(**options)


def test_more_eigenvectors_than_weights_are_refused():
    model = nn.Linear(1, 1)
    objective = Objective(model, lambda x: F.mse_loss(model(x), x), [RecordedBatch(torch.ones(2, 1))])
    with landscape(objective) as at, pytest.raises(CurvwatchError, match="2 weights"):
        Fisher(k=3).read(at)


class ByHand(Classifier):
    def loss(self, batch):
        return (self.net(batch[0]).square().sum(1) + 1).log().mean()


def test_in_a_run_and_what_it_says_where_the_outputs_are_not_clear():
    torch.set_default_dtype(torch.float32)
    monitor = CurvatureMonitor(["fisher"], every_n_steps=3)
    trainer = fit(Classifier(), monitor)
    read = trainer.logger.values("fisher/lambda_max")
    assert len(read) == 2
    assert min(read) > 0
    with told() as texts:
        trainer = fit(ByHand(), CurvatureMonitor(["fisher"], every_n_steps=3))
    assert len(texts) == 1
    assert "outputs_fn=" in texts[0]
    assert np.isnan(trainer.logger.values("fisher/trace")).all()
