"""The top eigenspace against that of the dense Hessian."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from curvwatch import CurvatureMonitor, CurvwatchError, Objective, Watch
from curvwatch.measures import gradient_subspace
from curvwatch.measures.gradient_subspace import GradientSubspace
from tests.measures.points import landscape, objective_of
from tests.support.cases import CASES, dense, flat
from tests.support.modules import Classifier, fit
from tests.support.studies import only

double = pytest.mark.usefixtures("double_precision")
K = 4


def top(hessian, k):
    return torch.linalg.eigh(hessian)[1][:, -k:].flip(1)


def moved(model, scale):
    with torch.no_grad():
        for p in model.parameters():
            p += scale * torch.randn_like(p)


@double
@pytest.mark.parametrize("name", only(CASES, take=["mlp_cross_entropy", "mlp_mse"]))
def test_shares_overlaps_and_rotation_equal_the_dense_ones(name):
    case = CASES[name]
    model = case.model()
    batches = [case.batch(6), case.batch(4)]
    measure = GradientSubspace(k=K, lag=2, rtol=1e-9, max_products=2000)
    memory, spaces = {}, []
    for i in range(4):
        if i:
            moved(model, 0.02)
        twin = dense(case, model, batches, flat(list(model.parameters())))
        d = torch.randn_like(twin.gradient) - twin.gradient
        with landscape(
            objective_of(case, model, batches), memory=memory, seed=i, update=lambda d=d: d
        ) as at:
            reading = measure.read(at)
        assert set(reading.values) == set(measure.metrics)
        assert not reading.doubts
        V = top(twin.hessian, K)
        spaces.append(V)
        expected = {
            "subspace_gradient_share": (V.T @ twin.gradient).norm() ** 2 / twin.gradient.norm() ** 2,
            "subspace_update_share": (V.T @ d).norm() ** 2 / d.norm() ** 2,
            "subspace_overlap_last": math.nan,
            "subspace_overlap_first": math.nan,
            "leading_rotation": math.nan,
        }
        if i:
            expected["subspace_overlap_first"] = (spaces[0].T @ V).norm() ** 2 / K
        if i >= 2:
            expected["subspace_overlap_last"] = (spaces[i - 2].T @ V).norm() ** 2 / K
            cosine = abs(spaces[i - 2][:, 0] @ V[:, 0])
            expected["leading_rotation"] = cosine.acos().rad2deg()
        for key, value in expected.items():
            read = reading.values[f"curvature/{key}"]
            assert read == pytest.approx(float(value), rel=1e-5, nan_ok=True), key
        assert reading.values["curvature/subspace_error"] < 1e-4
    assert memory["spaces"].shape == (2, K, len(flat(list(model.parameters()))))


@double
def test_the_error_bounds_the_angle_to_the_true_space():
    case = CASES["mlp_cross_entropy"]
    model = case.model()
    batch = case.batch(8)
    V = top(dense(case, model, [batch], flat(list(model.parameters()))).hessian, K)
    told = []
    for products in (8, 16, 24, 40):
        memory = {}
        with landscape(objective_of(case, model, [batch]), memory=memory) as at:
            reading = GradientSubspace(k=K, rtol=1e-9, max_products=products).read(at)
        cosines = torch.linalg.svdvals(memory["first"] @ V)
        sine = math.sqrt(max(0.0, 1 - float(cosines.min()) ** 2))
        told.append(reading.values["curvature/subspace_error"])
        assert sine <= told[-1] + 1e-7
        assert (reading.doubtful == GradientSubspace.metrics) == bool(reading.doubts)
    assert told[0] > 0.05 > told[-1]
    assert reading.doubtful


@double
def test_equal_eigenvalues_come_as_often_as_they_are_there():
    # of a linear regression with m outputs the Hessian is that of one, m times
    x, y = torch.randn(40, 20) * torch.linspace(0.3, 1.5, 20), torch.randn(40, 3)
    model = nn.Linear(20, 3, bias=False)
    objective = Objective.of_batches(
        model, lambda b: nn.functional.mse_loss(model(b[0]), b[1]), [(x, y)]
    )
    measure, memory = GradientSubspace(k=3), {}
    V = torch.linalg.eigh(x.T @ x)[1][:, -1:]
    for seed in range(4):
        g = 2 * (model(x) - y).T @ x / y.numel()
        with landscape(objective, memory=memory, seed=seed) as at:
            reading = measure.read(at)
        share = float((g.detach() @ V).norm() ** 2 / g.detach().norm() ** 2)
        error = reading.values["curvature/subspace_error"]
        assert abs(reading.values["curvature/subspace_gradient_share"] - share) <= error < 0.1
        moved(model, 0.02)


@double
def test_a_sketch_keeps_overlaps_and_bounds_the_memory(monkeypatch):
    monkeypatch.setattr(gradient_subspace, "_SKETCH", 1 << 12)
    monkeypatch.setattr(gradient_subspace, "_AT_A_TIME", 1 << 10)
    V = torch.linalg.qr(torch.randn(20_000, 6))[0].T
    W = torch.linalg.qr(V.T + 0.01 * torch.randn(20_000, 6))[0].T
    exact = V @ W.T
    a, b = gradient_subspace._sketch(V), gradient_subspace._sketch(W)
    assert a.shape == (6, 1 << 12)
    off = a @ b.T - exact
    assert off.abs().max() < 5 / 2**6
    # the standard deviation that is told, 1 / sqrt(length)
    assert off.square().mean().sqrt() == pytest.approx(2**-6, rel=0.4)


def test_classes_are_counted_or_refused_in_words():
    def objective(net):
        x = torch.randn(5, 3)
        return Objective.of_batches(net, lambda x: net(x).square().sum(1).mean(), [x])

    memory = {}
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 5))
    with landscape(objective(net), memory=memory) as at:
        GradientSubspace().read(at)
    assert memory["first"].shape[0] == 5
    for net, words in [
        (nn.Conv1d(3, 2, 1), "has none: give a number"),
        (nn.Linear(3, 200), "would keep 200 vectors"),
    ]:
        with (
            landscape(Objective.of_batches(net, lambda x: x.sum(), [torch.ones(1)])) as at,
            pytest.raises(CurvwatchError, match=words),
        ):
            GradientSubspace().read(at)
    with landscape(objective(nn.Linear(3, 2))) as at, pytest.raises(CurvwatchError, match="8 weights"):
        GradientSubspace(k=9).read(at)
    with landscape(objective(nn.Linear(3, 2))) as at:
        values = GradientSubspace(k=8).read(at).values
    assert values["curvature/subspace_gradient_share"] == pytest.approx(1.0, abs=1e-5)
    assert values["curvature/subspace_error"] == 0.0


def test_in_a_trainer_update_and_checkpoint_are_there():
    def run(steps, state=None):
        torch.manual_seed(0)
        monitor = CurvatureMonitor([GradientSubspace()], every_n_steps=1, on_error="raise")
        module = Classifier()
        fit(module, monitor, max_steps=steps)
        return monitor

    monitor = run(4)
    h = monitor.history
    share = h["curvature/subspace_update_share"].values
    # a step of plain gradient descent on the probe's own batch is along the gradient
    assert share[0] == pytest.approx(h["curvature/subspace_gradient_share"].values[0], rel=1e-4)
    assert ((share > 0) & (share <= 1)).all()
    assert (h["curvature/subspace_overlap_first"].values[1:] > 0.3).all()
    kept = monitor.state_dict()["memory"]["gradient_subspace"]
    assert all(isinstance(v, torch.Tensor) for v in kept.values() if v is not None)


@pytest.mark.study
def test_on_digits_gradient_and_update_come_to_lie_in_the_space_of_the_classes():
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(classes)
    net = nn.Sequential(nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def loss_fn(net, batch):
        return nn.functional.cross_entropy(net(batch[0]), batch[1])

    options = {"every_n_steps": 56, "probe": [(x, y)], "on_error": "raise"}
    with Watch(net, optimizer, loss_fn, [GradientSubspace()], **options) as watch:
        for _ in range(15):
            for rows in torch.randperm(len(x)).split(64)[:28]:
                loss_fn(net, (x[rows], y[rows])).backward()
                optimizer.step()
                optimizer.zero_grad()
                watch.step((x[rows], y[rows]))
    # ten of 6,260 directions; Gur-Ari et al. 2018 see the same from early in training on
    for name in ("gradient_share", "update_share", "overlap_last"):
        assert (watch.history[f"curvature/subspace_{name}"].values[-3:] > 0.5).all()
    assert (watch.history["curvature/subspace_error"].values[-3:] < 0.05).all()


@pytest.mark.parametrize(
    "options", [{"k": 0}, {"k": "all"}, {"k": True}, {"lag": 0}, {"rtol": 2}, {"max_products": 0}]
)
def test_arguments_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        GradientSubspace(**options)
