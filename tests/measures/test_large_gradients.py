"""A gradient in float64 whose squared norm overflows is finite, and is read as any other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from curvwatch import Objective
from curvwatch.measures import (
    EpsilonSharpness,
    GradientSubspace,
    LayerCurvature,
    Sharpness,
    SpectralDensity,
    StationaryPoint,
    TopEigenvalues,
)
from tests.measures.points import landscape

pytestmark = pytest.mark.usefixtures("double_precision")

SLOPES = torch.tensor([3.0, 4.0, 0.0, 0.0], dtype=torch.float64)


def quadratic_on_a_slope(slope):
    """Hessian diag(3, 2, 1, 0.5), gradient along SLOPES of norm 5 x `slope`, which outweighs H w."""
    net = nn.Linear(4, 1, bias=False)
    curvatures = torch.tensor([3.0, 2.0, 1.0, 0.5])
    nn.init.zeros_(net.weight)

    def loss(_):
        w = net.weight[0]
        return (slope * SLOPES * w).sum() + (curvatures * w.square()).sum() / 2

    return Objective.of_batches(net, loss, [torch.ones(1)])


def read(measure, slope=1e200):
    with landscape(quadratic_on_a_slope(slope)) as at:
        return measure.read(at)


@pytest.mark.parametrize(
    ("measure", "metric", "expected"),
    [
        (Sharpness(), "curvature/sharpness", 3.0),
        (TopEigenvalues(2), "curvature/eigenvalue/1", 2.0),
        (LayerCurvature(by="parameter"), "curvature/layer/weight/sharpness", 3.0),
        (SpectralDensity(), "curvature/trace", 6.5),
        (StationaryPoint(), "curvature/gradient_norm", 5e200),
        (GradientSubspace(k=2), "curvature/subspace_gradient_share", 1.0),
        (EpsilonSharpness(rho=0.05), "curvature/sam_sharpness", 5e200 * 0.05),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_it_is_read(measure, metric, expected):
    reading = read(measure)
    assert reading.values[metric] == pytest.approx(expected, rel=1e-5)
    assert not any("finite" in note for note in reading.notes)
    assert not reading.broken


def test_one_that_is_not_finite_is_noted():
    net = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(net.weight)
    objective = Objective.of_batches(net, lambda x: net.weight.sqrt().sum(), [torch.ones(1)])
    with landscape(objective) as at:
        reading = Sharpness().read(at)
    assert reading.values["curvature/loss"] == 0.0  # the gradient alone is infinite
    assert "not finite" in reading.notes[0]
    assert reading.broken == ("curvature/loss",)
