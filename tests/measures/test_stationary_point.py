"""Kinds of points against dense eigenvalues, and on functions whose kind is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from curvwatch import CurvatureMonitor, Objective
from curvwatch.measures import StationaryPoint
from curvwatch.measures.stationary_point import KINDS
from tests.measures.points import landscape, objective_of
from tests.support.cases import CASES, dense, flat
from tests.support.modules import Classifier, fit
from tests.support.studies import only

double = pytest.mark.usefixtures("double_precision")


@double
@pytest.mark.parametrize("name", only(CASES, take=["mlp_cross_entropy"]))
def test_values_equal_those_of_the_dense_hessian(name):
    case = CASES[name]
    model = case.model()
    batches = [case.batch(6), case.batch(4)]
    w = flat(list(model.parameters()))
    twin = dense(case, model, batches, w)
    eigenvalues = torch.linalg.eigvalsh(twin.hessian)
    size = float(eigenvalues.abs().max())
    with landscape(objective_of(case, model, batches)) as at:
        reading = StationaryPoint(probes=8, steps=30, rtol=1e-6).read(at)
    read = {key.removeprefix("curvature/"): value for key, value in reading.values.items()}
    assert not reading.doubts
    assert read["gradient_norm"] == pytest.approx(float(twin.gradient.norm()))
    expected = float(twin.gradient.norm() / (size * w.norm()))
    assert read["gradient_over_curvature"] == pytest.approx(expected, rel=1e-6)
    share = float((eigenvalues < -0.05 * size).double().mean())
    assert abs(read["index_share"] - share) <= 3 * read["index_share_error"]
    assert read["index_share_error"] < 0.1
    assert KINDS[int(read["stationary_kind"])] == "slope"


def of_quadratic(eigenvalues, weights, constant=0.0, slope=0.0):
    net = nn.Linear(len(eigenvalues), 1, bias=False)
    with torch.no_grad():
        net.weight[0] = torch.tensor(weights)
    d = torch.tensor(eigenvalues)

    def loss(x):
        w = net.weight[0]
        return (d * w.square()).sum() / 2 + slope * w.sum() + constant

    return Objective.of_batches(net, loss, [torch.ones(1)])


@double
@pytest.mark.parametrize(
    ("kind", "objective"),
    [
        ("slope", ([2.0, 1.0, -1.0, 0.5], [1.0, 0.0, 0.0, 0.0])),
        ("saddle", ([2.0, 1.0, -1.0, 0.0], [0.0, 0.0, 0.0, 5.0])),
        ("minimum", ([2.0, 1.0, 0.0, 0.0], [0.0, 0.0, 3.0, 4.0])),
        ("minimum", ([2.0, 1.0, -0.05, 0.0], [0.0, 0.0, 0.0, 4.0])),
        ("plateau", ([2e-6, 1e-6, -1e-6, 0.0], [1.0, 1.0, 1.0, 1.0], 5.0)),
        ("slope", ([0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], 5.0, 1.0)),
    ],
)
def test_of_a_quadratic_the_kind_is_known(kind, objective):
    with landscape(of_quadratic(*objective)) as at:
        reading = StationaryPoint().read(at)
    assert KINDS[int(reading.values["curvature/stationary_kind"])] == kind
    assert kind in reading.notes[0]
    if kind == "saddle":
        assert reading.values["curvature/index_share"] == pytest.approx(0.25)
        assert reading.values["curvature/gradient_over_curvature"] == 0.0


@double
@pytest.mark.parametrize(("times", "kind"), [(0.9, "minimum"), (1.1, "slope")])
def test_the_threshold_of_a_slope_is_that_of_gradient_over_curvature(times, kind):
    # the second weight has no curvature: it makes the weights as long as it takes
    length = 1 / (1e-3 * times)
    with landscape(of_quadratic([1.0, 0.0], [1.0, math.sqrt(length**2 - 1)])) as at:
        read = StationaryPoint().read(at).values
    assert read["curvature/gradient_over_curvature"] == pytest.approx(1e-3 * times)
    assert KINDS[int(read["curvature/stationary_kind"])] == kind


@double
@pytest.mark.parametrize(("times", "kind"), [(0.9, "plateau"), (1.1, "minimum")])
def test_the_threshold_of_a_plateau_is_that_of_the_change_along_the_weights(times, kind):
    # half abs(H) abs(w)^2 = times x flat x abs(f)
    with landscape(of_quadratic([2e-3 * times, 0.0], [0.0, 1.0], 1.0)) as at:
        read = StationaryPoint().read(at).values
    assert KINDS[int(read["curvature/stationary_kind"])] == kind


@double
@pytest.mark.parametrize("scale", [1e-8, 1e8])
@pytest.mark.parametrize("stretch", [1e-4, 1e4])
def test_units_of_loss_and_weights_do_not_matter(scale, stretch):
    kinds = []
    for s, t in ((1.0, 1.0), (scale, stretch)):
        eigenvalues = [s * x / t**2 for x in (2.0, 1.0, -1.0, 0.5)]
        for weights in ([1.0, 0.0, 0.0, 0.0], [1e-4, 0.0, 0.0, 0.0]):
            with landscape(of_quadratic(eigenvalues, [t * w for w in weights], s)) as at:
                read = StationaryPoint().read(at).values
            kinds.append(tuple(v for k, v in read.items() if k != "curvature/gradient_norm"))
    for a, b in zip(kinds[:2], kinds[2:], strict=True):
        assert a == pytest.approx(b, rel=1e-6)


def test_the_word_is_told_when_it_changes():
    measure, memory = StationaryPoint(), {}
    told = []
    for weights in ([1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]):
        with landscape(of_quadratic([1.0, 0.2, 0.0], weights), memory=memory) as at:
            told.append(measure.read(at).notes)
    assert told == [("the weights are on a slope",), (), ("the weights are near a minimum",)]


def test_what_is_not_finite_is_told():
    objective = of_quadratic([3.0, 1.0], [math.inf, 1.0])
    with landscape(objective) as at:
        reading = StationaryPoint().read(at)
    assert all(map(math.isnan, reading.values.values()))
    assert "not finite" in reading.notes[0]


def test_in_a_trainer():
    monitor = CurvatureMonitor(["stationary_point"], every_n_steps=2, on_error="raise")
    fit(Classifier(), monitor, max_steps=4)
    kinds = monitor.history["curvature/stationary_kind"]
    assert kinds.steps.tolist() == [0, 2]
    assert set(kinds.values) <= {0.0, 1.0, 2.0, 3.0}
    assert any("the weights are" in note.text for note in monitor.history.notes)


@pytest.mark.parametrize("options", [{"steep": 0}, {"flat": 2}, {"negative": "1"}, {"steps": 1}])
def test_arguments_are_checked(options):
    with pytest.raises(ValueError, match="is needed"):
        StationaryPoint(**options)
