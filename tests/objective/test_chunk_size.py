"""Batches that are taken in parts: the same numbers, at the memory of a part."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvwatch import CurvatureMonitor, CurvwatchError, Objective
from curvwatch.objective.chunk_size import ChunkSize
from curvwatch.objective.isolation.containers import slice_batch
from curvwatch.objective.memory import Footprint
from curvwatch.objective.samples import RecordedBatch
from tests.support.cases import CASES, dense, flat
from tests.support.modules import Classifier, batches, fit, told

pytestmark = pytest.mark.usefixtures("double_precision")


def net(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 16), *layers, nn.Tanh(), nn.Linear(16, 3))


def batch(n: int = 12) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 5), torch.randint(0, 3, (n,))


def cross_entropy(model, **options):
    return lambda b: F.cross_entropy(model(b[0]), b[1], **options)


@pytest.mark.parametrize("sizes", [[6], [6, 3]], ids=["one_batch", "uneven_batches"])
@pytest.mark.parametrize("chunk_size", [1, 2, 4, 5])
def test_parts_have_the_derivatives_of_the_dense_twin(sizes, chunk_size):
    case = CASES["mlp_cross_entropy"]
    model = case.model()
    data = [case.batch(n) for n in sizes]
    twin = dense(case, model, data, flat(list(model.parameters())))
    objective = Objective.of_batches(
        model, lambda b: case.loss(model(b[0]), b[1]), data, chunking=chunk_size
    )
    v = torch.randn(objective.layout.size)
    with objective.open() as f:
        point = f.linearize()
        for _ in range(2):
            torch.testing.assert_close(point.product(v), twin.hessian @ v, rtol=1e-8, atol=1e-11)
        assert point.loss == pytest.approx(twin.loss, rel=1e-12)
        torch.testing.assert_close(point.gradient, twin.gradient, rtol=1e-9, atol=1e-12)
    assert objective.chunking.refused is None
    # the whole batch for the gradient, the parts for each of the products
    assert (objective.counts.gradients, objective.counts.products) == (3, 2)


def test_the_spread_over_batches_is_that_of_batches_and_not_of_parts():
    model, data = net(), [batch(8), batch(4)]
    spreads = []
    for chunk_size in (100, 2):
        objective = Objective.of_batches(model, cross_entropy(model), data, chunking=chunk_size)
        with objective.open() as f:
            v = torch.ones(objective.layout.size) / math.sqrt(objective.layout.size)
            spreads.append(f.linearize().quotient_stderr(v))
    assert spreads[1] == pytest.approx(spreads[0], rel=1e-9)


class Contrastive(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        z = F.normalize(self.net(x), dim=1)
        return F.cross_entropy(z @ z.T / 0.1, torch.arange(len(x)))


def masked_tokens(model):
    targets = torch.randint(0, 3, (12,))
    targets[:5] = -100
    return lambda b: F.cross_entropy(model(b[0]), targets[: len(b[0])], ignore_index=-100)


COUPLED = {
    "batch_norm": (net(nn.BatchNorm1d(16)), cross_entropy, "BatchNorm1d takes its statistics"),
    "contrastive": (Contrastive(), lambda model: lambda b: model(b[0]), "is no mean over examples"),
    "sum": (net(), lambda m: cross_entropy(m, reduction="sum"), "is no mean over examples"),
    "mean_over_tokens": (net(), masked_tokens, "is no mean over examples"),
    "stopped_gradient": (
        net(),
        lambda m: lambda b: (loss := m(b[0]).square().mean()) / loss.detach(),
        "gradient of the chunks is off",
    ),
    "fixed_size": (net(), lambda m: lambda b: m(b[0].view(12, 5)).square().mean(), "on a chunk: "),
}


@pytest.mark.parametrize("name", COUPLED)
def test_where_examples_depend_on_one_another_batches_stay_whole(name):
    torch.manual_seed(0)
    model, make, reason = COUPLED[name]
    model.double()
    loss, data = make(model), [batch()]
    products = []
    for chunking in (None, ChunkSize(4)):
        with Objective.of_batches(model, loss, data, chunking=chunking).open() as f:
            point = f.linearize()
            v = torch.linspace(-1, 1, f.layout.size)
            products.append((point.product(v), point.loss, point.gradient))
            products[-1] = (*products[-1], point.product(v))
    assert reason in chunking.refused
    for ours, twin in zip(products[1], products[0], strict=True):
        torch.testing.assert_close(ours, twin, rtol=1e-9, atol=1e-12)


def test_an_error_of_the_loss_is_no_reason_to_keep_batches_whole():
    model, chunking = net(), ChunkSize(4)

    def loss(b):
        raise CurvwatchError("wrong anyway")

    objective = Objective.of_batches(model, loss, [batch()], chunking=chunking)
    with pytest.raises(CurvwatchError, match="wrong anyway"), objective.open() as f:
        f.linearize()
    assert chunking.refused is None


class Attention(nn.Module):
    """Dropout of weights (example * head first), activations and noise."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.block = nn.MultiheadAttention(8, 2, dropout=0.3, batch_first=True)

    def forward(self, x):
        h = F.dropout(self.embed(x), 0.2)
        h = h + self.block(h, h, h, need_weights=False)[0] + 0.1 * torch.randn_like(h)
        return self.head(h.mean(1) + torch.randn(len(x), 1))


@pytest.mark.parametrize("chunk_size", [3, 5])
def test_random_numbers_of_parts_are_those_of_the_whole_batch(chunk_size):
    model = Attention()
    data = torch.randn(12, 4, 5), torch.randint(0, 3, (12,))
    results = []
    for chunking in (None, ChunkSize(chunk_size)):
        objective = Objective.of_batches(model, cross_entropy(model), [data], chunking=chunking)
        with objective.open() as f:
            point = f.linearize()
            v = torch.linspace(-1, 1, f.layout.size)
            results.append((point.product(v), point.gradient, point.product(v)))
    assert chunking.refused is None
    assert chunking.draws
    for ours, twin in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, twin, rtol=1e-9, atol=1e-12)


def test_dropout_over_channels_last_draws_in_the_order_of_memory():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 3))
    x = torch.randn(8, 3, 4, 4).to(memory_format=torch.channels_last)
    model.to(memory_format=torch.channels_last)
    chunking = ChunkSize(2)
    data = [(x, torch.randint(0, 3, (8,)))]
    with Objective.of_batches(model, cross_entropy(model), data, chunking=chunking).open() as f:
        f.linearize().product(torch.ones(f.layout.size))
    assert chunking.refused is None


def test_a_product_takes_the_memory_of_a_part():
    model = nn.Sequential(*[m for _ in range(4) for m in (nn.Linear(32, 32), nn.Tanh())])
    x = torch.randn(512, 32)
    peaks = {}
    for size in (512, 64):
        objective = Objective.of_batches(
            model, lambda x: model(x).square().mean(), [x], chunking=ChunkSize(size)
        )
        with Footprint() as footprint, objective.open() as f:
            point = f.linearize()
            v = torch.ones(objective.layout.size)
            if size == 64:
                footprint.peak = 0
            for _ in range(2):
                point.product(v)
        peaks[size] = footprint.peak
        del point
    # an eighth, and vectors of the model's size; two parts at a time would have twice as much
    assert peaks[64] < 0.25 * peaks[512]


@pytest.mark.parametrize(("process", "whole"), [(0, False), (10**9, True)])
def test_the_size_is_found_so_that_a_product_fits_into_a_step(monkeypatch, process, whole):
    monkeypatch.setattr("curvwatch.objective.chunk_size.peak_of_process", lambda device: process)
    model = nn.Sequential(*[m for _ in range(4) for m in (nn.Linear(32, 32), nn.Tanh())])
    x = torch.randn(512, 32)
    chunking = ChunkSize()
    objective = Objective.of_batches(model, lambda x: model(x).square().mean(), [x], chunking=chunking)
    with Footprint() as step:
        torch.autograd.grad(model(x).square().mean(), list(model.parameters()))
    for _ in range(2):  # the second time nothing is measured
        with Footprint() as footprint, objective.open() as f:
            f.linearize().product(torch.ones(f.layout.size))
    if whole:
        assert chunking.size == 512
    else:
        assert 16 < chunking.size < 500
        assert footprint.peak < 1.3 * step.peak
    larger = RecordedBatch(torch.randn(1024, 32))
    assert not chunking.needs_measurement([RecordedBatch(x)])
    assert chunking.needs_measurement([larger])


@dataclass
class Example:
    x: Tensor
    name: str


def test_nested_batches_are_cut():
    x = torch.arange(4)
    nested = {
        "x": x,
        "list": [x, (x[:, None], "a")],
        "texts": ["a", "b", "c", "d"],
        "boxes": [torch.ones(k, 4) for k in (1, 2, 3, 5)],
        "weights": torch.ones(7),
        "dataclass": Example(x, "name"),
        "scalar": torch.tensor(1.0),
    }
    cut = slice_batch(nested, 1, 3)
    assert cut["x"].tolist() == cut["list"][0].tolist() == cut["dataclass"].x.tolist() == [1, 2]
    assert cut["list"][1][0].tolist() == [[1], [2]]
    assert cut["texts"] == ["b", "c"]
    assert [len(b) for b in cut["boxes"]] == [2, 3]
    assert len(cut["weights"]) == 7
    assert nested["dataclass"].x is x


def test_an_object_with_tensors_is_not_cut():
    class Graph:
        def to_dict(self):
            return {"x": torch.ones(4)}

    with pytest.raises(CurvwatchError, match="a Graph cannot be split"):
        slice_batch([torch.ones(4), Graph()], 0, 2)


def test_a_monitor_reads_the_same_in_parts_and_tells_where_it_cannot():
    histories = []
    for chunk_size in (None, 3):
        torch.manual_seed(0)
        monitor = CurvatureMonitor(every_n_steps=1, chunk_size=chunk_size)
        fit(Classifier(), monitor, data=batches(16, batch_size=8), precision="64-true")
        histories.append(monitor.history)
    for name in ("curvature/sharpness", "step/directional_sharpness", "step/loss_change"):
        assert histories[1][name].values == pytest.approx(histories[0][name].values, rel=1e-5), name
    normed = Classifier(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)))
    with told() as warnings:
        fit(normed, CurvatureMonitor(every_n_steps=1, chunk_size=3), data=batches(16, batch_size=8))
    assert len([w for w in warnings if "BatchNorm1d takes its statistics" in w]) == 1
    assert len(warnings) == 1


@pytest.mark.parametrize("chunk_size", [0, -1, 2.5, True, "8"])
def test_a_chunk_size_is_a_positive_number(chunk_size):
    with pytest.raises(ValueError, match="chunk_size="):
        CurvatureMonitor(chunk_size=chunk_size)
