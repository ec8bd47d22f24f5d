"""Sharpness, trace and share of each layer against the blocks of the dense Hessian."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from curvwatch import CurvatureMonitor, CurvwatchError, Objective, Watch
from curvwatch.measures import GradientStats, LayerCurvature
from curvwatch.objective.layers import layers_of, parameter_names
from tests.measures.points import landscape, objective_of
from tests.support.cases import CASES, dense, flat
from tests.support.modules import Classifier, batches, fit, told
from tests.support.studies import only

pytestmark = pytest.mark.usefixtures("double_precision")

GROUPS = {"module": "module", "parameter": "parameter", "depth": lambda name: name.split(".")[0]}


def dense_blocks(model, hessian, by):
    """The block of each layer, by names and sizes counted here."""
    place, blocks = 0, {}
    for name, p in model.named_parameters():
        layer = name.rsplit(".", 1)[0] if by == "module" else name
        layer = by(name) if callable(by) else layer
        blocks.setdefault(layer, []).extend(range(place, place + p.numel()))
        place += p.numel()
    return {layer: hessian[rows][:, rows] for layer, rows in blocks.items()}


# each way to group on a perceptron, and one on another network
@pytest.mark.parametrize(
    ("name", "by"),
    only(
        itertools.product(CASES, GROUPS),
        take=[
            *(("mlp_cross_entropy", by) for by in GROUPS),
            ("transformer_sdpa", "module"),
        ],
    ),
)
def test_each_layer_equals_its_dense_block(name, by):
    case, by = CASES[name], GROUPS[by]
    model = case.model()
    batches = [case.batch(6), case.batch(3)]
    twin = dense(case, model, batches, flat(list(model.parameters())))
    blocks = dense_blocks(model, twin.hessian, by)
    measure = LayerCurvature(by=by, rtol=1e-6, probes=60, max_products=200, density_probes=0)
    with landscape(objective_of(case, model, batches)) as at:
        reading = measure.read(at)
    assert tuple(reading.values) == measure.metrics_of(model, list(model.parameters()))
    assert not reading.doubts
    whole = float(twin.hessian.trace())
    off = []
    shares = [v for key, v in reading.values.items() if "/share" in key]
    if np.isnan(shares).any():  # those that are none are left out, and the note says so
        assert np.isnan(shares).all()
        assert "within 4 standard errors of zero" in reading.notes[0]
    for layer, block in blocks.items():
        read = {key: reading.values[f"curvature/layer/{layer}/{key}"] for key in ("sharpness", "trace")}
        top = float(torch.linalg.eigvalsh(block)[-1])
        assert read["sharpness"] == pytest.approx(top, rel=1e-6, abs=1e-12)
        for key, exact in (("trace", float(block.trace())), ("share", float(block.trace()) / whole)):
            value = reading.values[f"curvature/layer/{layer}/{key}"]
            error = reading.values[f"curvature/layer/{layer}/{key}_stderr"]
            off.append((value - exact) / (error + 1e-12))
    off = np.array(off)[~np.isnan(off)]
    assert np.abs(off).max() < 4.5
    assert np.sqrt(np.mean(np.square(off))) < 1.6
    assert reading.values["curvature/layer_residual"] <= 1e-6


@pytest.mark.study
def test_standard_errors_are_those_of_repeated_readings_and_fall_with_the_root():
    a = torch.randn(20, 24)
    a = a @ a.T
    module = nn.ParameterDict({"p": nn.Parameter(torch.zeros(8)), "q": nn.Parameter(torch.zeros(12))})

    def loss(_):
        w = torch.cat([module["p"], module["q"]])
        return w @ a @ w / 2

    objective = Objective.of_batches(module, loss, [torch.ones(1)])
    spread, shared = {}, float(a[:8, :8].trace() / a.trace())
    for probes in (4, 16, 64):
        measure = LayerCurvature(probes=probes, rtol=0.5, max_products=1, density_probes=0)
        rows = []
        for seed in range(120):
            with landscape(objective, seed=seed) as at:
                values = measure.read(at).values
            keys = ("trace", "trace_stderr", "share", "share_stderr")
            rows.append([values[f"curvature/layer/p/{key}"] for key in keys])
        traces, of_traces, shares, of_shares = np.array(rows).T
        spread[probes] = np.std(traces)
        assert np.sqrt(np.mean(of_traces**2)) == pytest.approx(spread[probes], rel=0.25)
        assert np.sqrt(np.mean(of_shares**2)) == pytest.approx(np.std(shares), rel=0.25)
        assert np.mean(shares) == pytest.approx(
            shared, abs=4 * np.std(shares) / 120**0.5 + 0.1 / probes
        )
    slope = np.polyfit(np.log(list(spread)), np.log(list(spread.values())), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.1)


def test_a_share_in_a_trace_that_may_be_zero_is_missing():
    a = nn.ParameterDict({"a": nn.Parameter(torch.zeros(2)), "b": nn.Parameter(torch.zeros(2))})
    objective = Objective.of_batches(a, lambda x: a["a"].prod() + 1e-3 * a["b"].prod(), [torch.ones(1)])
    with landscape(objective) as at:
        reading = LayerCurvature(by="parameter").read(at)
    assert math.isnan(reading.values["curvature/layer/a/share"])
    assert "zero" in reading.notes[0]
    assert reading.values["curvature/layer/a/sharpness"] == pytest.approx(1.0)


def test_a_warm_reading_finds_an_eigenvalue_that_rose_from_below():
    a = nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    rates = [torch.tensor([5.0, 1.0, 0.1]), torch.tensor([1.0, 6.0, 0.1])]
    module = nn.ParameterDict({"a": a})
    memory = {}
    for c in rates:
        objective = Objective.of_batches(module, lambda c: (c * module["a"] ** 2).sum() / 2, [c[None]])
        with landscape(objective, memory=memory) as at:
            values = LayerCurvature().read(at).values
        assert values["curvature/layer/a/sharpness"] == pytest.approx(float(c.max()), rel=1e-4)
        assert values["curvature/layer/a/trace"] == pytest.approx(float(c.sum()))
        assert values["curvature/layer/a/trace_stderr"] == pytest.approx(0.0, abs=1e-12)
        assert values["curvature/layer/a/share"] == pytest.approx(1.0)


def test_a_layer_without_curvature_is_zero_and_raises_no_doubt():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
    x = torch.randn(8, 3)
    objective = Objective.of_batches(model, lambda x: (model(x) - 1).square().mean(), [x])
    with landscape(objective) as at:
        reading = LayerCurvature(by="parameter").read(at)
    assert abs(reading.values["curvature/layer/0.bias/sharpness"]) < 1e-12
    assert reading.values["curvature/layer_residual"] < 1e-3
    assert not reading.doubts


def test_differences_of_gradients_give_the_same():
    case = CASES["mlp_mse"]
    model = case.model()
    batch = case.batch(6)
    sharp = []
    for hvp in ("exact", "difference"):
        with landscape(objective_of(case, model, [batch], hvp=hvp)) as at:
            reading = LayerCurvature().read(at)
        assert not reading.doubts
        sharp.append([v for k, v in reading.values.items() if k.endswith("/sharpness")])
    np.testing.assert_allclose(*sharp, rtol=1e-4)


def test_products_that_are_not_finite_leave_no_value():
    model = nn.Linear(2, 1)
    objective = Objective.of_batches(model, lambda x: model(x).sum() * math.inf, [torch.ones(3, 2)])
    with landscape(objective) as at:
        reading = LayerCurvature(by="parameter").read(at)
    assert all(math.isnan(v) for v in reading.values.values())
    assert reading.notes


def test_names_of_layers():
    model = nn.Sequential(nn.Linear(2, 2), nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    model.scale = nn.Parameter(torch.ones(()))
    params = list(model.parameters())
    assert list(layers_of(parameter_names(model, params), "module")) == ["scale", "0", "1"]
    other = nn.Parameter(torch.ones(1))
    assert parameter_names(model, [other, model.scale]) == ("parameter0", "scale")
    assert layers_of(["a.w", "b.w"], lambda name: None if name[0] == "a" else "B") == {"B": [1]}


def two_optimizers(params):
    params = list(params)
    return [torch.optim.SGD(params[:2], lr=0.1), torch.optim.Adam(params[2:])]


def test_keys_are_those_that_are_announced_also_where_readings_fail(monkeypatch):
    torch.set_default_dtype(torch.float32)
    measure = LayerCurvature()
    monitor = CurvatureMonitor([measure], every_n_steps=1)
    read, calls = LayerCurvature.read, []

    def failing(self, at):
        calls.append(at)
        if len(calls) == 2:
            raise CurvwatchError("on purpose")
        return read(self, at)

    monkeypatch.setattr(LayerCurvature, "read", failing)
    with told() as texts:
        trainer = fit(Classifier(), monitor, max_steps=3)
    assert "on purpose" in texts[0]
    rows = [set(row) - {"train_loss", "epoch"} for _, row in trainer.logger.rows]
    rows = [row for row in rows if row]
    assert rows[0] == rows[1] == rows[2]
    assert "curvature/layer/net.3/sharpness" in rows[0]
    values = monitor.history["curvature/layer/net.3/sharpness"].values
    assert np.isnan(values).tolist() == [False, True, False]


def test_each_optimizer_has_the_layers_that_it_trains():
    torch.set_default_dtype(torch.float32)
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    first, second = two_optimizers(model.parameters())

    def loss_fn(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    measures = [LayerCurvature(density_probes=0), GradientStats()]
    losses = [loss_fn, loss_fn]
    with Watch(model, [first, second], losses, measures, every_n_steps=1, on_error="raise") as watch:
        for batch in list(batches())[:2]:
            for optimizer in (first, second):
                model.zero_grad()
                loss_fn(model, batch).backward()
                optimizer.step()
            values = watch.step(batch)
    assert {"curvature/layer/0/sharpness-SGD", "curvature/layer/2/sharpness-Adam"} <= set(values)
    assert {"step/layer/0/gradient_norm-SGD", "step/layer/2/gradient_norm-Adam"} <= set(values)
    assert "curvature/layer/2/sharpness-SGD" not in values


@pytest.mark.parametrize(
    "options",
    [
        {"by": "layers"},
        {"probes": 1},
        {"probes": True},
        {"density_probes": 1},
        {"density_steps": 1},
        {"rtol": 0},
        {"max_products": 0},
    ],
)
def test_arguments_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        LayerCurvature(**options)
