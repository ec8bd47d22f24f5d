"""The largest eigenvalues and the leading eigenvector against those of the dense Hessian."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from curvwatch import CurvatureMonitor, Objective
from curvwatch.measures import TopEigenvalues
from tests.measures.points import landscape, objective_of
from tests.support.cases import CASES, dense, flat
from tests.support.modules import Classifier, fit
from tests.support.studies import without

double = pytest.mark.usefixtures("double_precision")


@double
@pytest.mark.parametrize("name", without(CASES, leave=["cnn_batchnorm"]))
def test_eigenvalues_and_shares_equal_the_dense_ones(name):
    case = CASES[name]
    model = case.model()
    batches = [case.batch(6), case.batch(4)]
    twin = dense(case, model, batches, flat(list(model.parameters())))
    eigenvalues, vectors = torch.linalg.eigh(twin.hessian)
    with landscape(objective_of(case, model, batches)) as at:
        reading = TopEigenvalues(4, rtol=1e-8, max_products=3000, by="parameter").read(at)
    assert not reading.doubts
    read = reading.values
    top = eigenvalues.flip(0)[:4]
    for i, value in enumerate(top):
        assert read[f"curvature/eigenvalue/{i}"] == pytest.approx(float(value), rel=1e-7)
    assert read["curvature/eigenvalue_gap"] == pytest.approx(float(top[0] - top[1]), rel=1e-5)
    assert read["curvature/eigenvalue_residual"] < 1e-7
    assert read["curvature/eigenvector_error"] < 1e-4
    v = vectors[:, -1]
    assert read["curvature/participation_ratio"] == pytest.approx(float(v.pow(4).sum()), rel=1e-4)
    parts = v.split([p.numel() for p in model.parameters()])
    for (layer, _), part in zip(model.named_parameters(), parts, strict=True):
        share = read[f"curvature/layer/{layer}/eigenvector_share"]
        assert share == pytest.approx(float(part.square().sum()), rel=1e-4, abs=1e-10), layer


def quadratic(eigenvalues):
    net = nn.Linear(len(eigenvalues), 1, bias=False)
    d = torch.tensor(eigenvalues)
    return Objective.of_batches(net, lambda x: (d * net.weight[0].square()).sum() / 2, [torch.ones(1)])


@double
def test_of_a_diagonal_quadratic_the_leading_vector_is_an_axis():
    with landscape(quadratic([4.0, 1.0, 0.5, -9.0])) as at:
        read = TopEigenvalues(3).read(at).values
    assert [read[f"curvature/eigenvalue/{i}"] for i in range(3)] == pytest.approx([4.0, 1.0, 0.5])
    assert read["curvature/participation_ratio"] == pytest.approx(1.0)
    assert read["curvature/eigenvalue_gap"] == pytest.approx(3.0)


@double
def test_a_vector_of_a_plane_is_told():
    errors = []
    for more in ([], [2.0]):
        with landscape(quadratic([*torch.linspace(0.5, 1.0, 300).tolist(), *more])) as at:
            errors.append(TopEigenvalues(2).read(at).values["curvature/eigenvector_error"])
    assert errors[0] > 0.03
    assert errors[1] < errors[0] / 10


@double
def test_equal_eigenvalues_come_as_often_as_they_are_there():
    with landscape(quadratic([3.0, 3.0, 3.0, 1.0, 0.5, -1.0])) as at:
        read = TopEigenvalues(4, rtol=1e-6).read(at).values
    found = [read[f"curvature/eigenvalue/{i}"] for i in range(4)]
    assert found == pytest.approx([3.0, 3.0, 3.0, 1.0])
    assert read["curvature/eigenvalue_gap"] == pytest.approx(0.0, abs=1e-9)
    assert read["curvature/eigenvector_error"] == 1.0


@double
def test_fewer_weights_than_eigenvalues():
    with landscape(quadratic([3.0, 1.0])) as at:
        reading = TopEigenvalues(4).read(at)
    assert reading.values["curvature/eigenvalue/1"] == pytest.approx(1.0)
    assert math.isnan(reading.values["curvature/eigenvalue/2"])
    assert "there are 2 weights" in reading.notes[0]


@double
def test_what_is_not_finite_is_told():
    objective = quadratic([3.0, 1.0])
    with torch.no_grad():
        objective.params[0].fill_(math.inf)
    with landscape(objective) as at:
        reading = TopEigenvalues(2).read(at)
    assert all(map(math.isnan, reading.values.values()))
    assert "not finite" in reading.notes[0]


def test_a_solve_that_did_not_converge_is_doubtful():
    with landscape(quadratic([float(i) for i in range(90)])) as at:
        reading = TopEigenvalues(5, rtol=1e-6, max_products=7).read(at)
    assert set(reading.doubtful) == set(reading.values)
    assert "did not converge" in reading.doubts[0]


def test_in_a_trainer_shares_add_up():
    monitor = CurvatureMonitor([TopEigenvalues(2)], every_n_steps=2)
    fit(Classifier(), monitor, max_steps=4)
    names = [name for name in monitor.history if name.endswith("/eigenvector_share")]
    assert len(names) > 1
    assert sum(monitor.history[name].values for name in names) == pytest.approx([1.0, 1.0])
    assert (monitor.history["curvature/eigenvalue_gap"].values >= 0).all()


@pytest.mark.parametrize("options", [{"k": 1}, {"k": "3"}, {"by": 3}, {"rtol": 0}])
def test_arguments_are_checked(options):
    with pytest.raises(ValueError, match="is needed"):
        TopEigenvalues(**options)
