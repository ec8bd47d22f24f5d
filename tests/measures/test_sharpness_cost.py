"""Sharpness of networks that are not small: what it costs while tracking, and how far it is off."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from curvwatch import CurvatureMonitor, Sharpness
from curvwatch.measures import sharpness
from curvwatch.objective.memory import Footprint
from curvwatch.operators import FunctionOperator
from curvwatch.solvers import lanczos
from tests.support.modules import CLASSES, FEATURES, Classifier, adam, batches, fit
from tests.support.studies import only

READINGS = 12


def momentum(parameters):
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9)


def tracked(optimizer, measure):
    torch.manual_seed(0)
    probe = next(iter(batches(4, batch_size=4)))
    net = nn.Sequential(nn.Linear(FEATURES, 24), nn.Tanh(), nn.Linear(24, CLASSES))
    monitor = CurvatureMonitor([measure], every_n_steps=2, probe=[probe], on_error="raise")
    data = batches(8 * READINGS, batch_size=4)
    fit(Classifier(net, optimizer), monitor, data=data, max_steps=2 * READINGS)
    return monitor.history


@pytest.mark.parametrize(
    ("optimizer", "most", "basis"),
    only(
        [
            (optimizer, most, basis)
            for optimizer, most in ((momentum, 6), (adam, 13))
            for basis in ("large basis", "small basis")
        ],
        take=[(momentum, 6, "large basis"), (adam, 13, "small basis")],
    ),
)
def test_a_reading_takes_few_products_and_is_near_the_tight_one(optimizer, most, basis, monkeypatch):
    twin = tracked(optimizer, Sharpness(rtol=1e-6))
    monkeypatch.setattr(sharpness, "_FEW_WEIGHTS", 0)
    if basis == "small basis":
        monkeypatch.setattr(sharpness, "_MANY_WEIGHTS", 1)
    history = tracked(optimizer, Sharpness())
    assert history["curvature/cost_hvps"].values[3:].mean() <= most
    for name in ("curvature/sharpness", "curvature/effective_sharpness"):
        assert history[name].values[1:] == pytest.approx(twin[name].values[1:], rel=0.01, nan_ok=True)


def test_vectors_of_a_small_basis_do_not_pile_up():
    n = 1_000_000
    d = torch.linspace(-1, 1, n) ** 3
    operator = FunctionOperator(lambda v: d * v, size=n, dtype=torch.float32)
    with Footprint() as footprint:
        pairs = lanczos(operator, also=3, rtol=1e-3, basis=6, max_products=20)
    assert pairs.products == 20  # it was restarted, three times
    assert footprint.peak / (4 * n) < 11.5
