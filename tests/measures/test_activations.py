"""Shares of non-zero activations against those of a forward pass written out."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from curvwatch import CurvatureMonitor, Objective, Watch
from curvwatch.measures.activations import ActivationSparsity
from tests.measures.points import landscape
from tests.support.modules import Classifier, batches, fit


class ByHand(nn.Module):
    """Calls functions that no module holds, one of them twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 9), nn.Linear(9, 9)

    def forward(self, x):
        x = torch.relu(self.a(x))
        return F.relu(self.b(x)).relu_()


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.act, self.head = ByHand(), nn.ReLU6(inplace=True), nn.Linear(9, 2)

    def forward(self, x):
        return self.head(self.act(self.inner(x) - 0.2))


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Hardtanh(0.0, 1.0), nn.Tanh())


def cnn():
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 2))


def transformer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def share(*tensors):
    return sum(int((t != 0).sum()) for t in tensors) / sum(t.numel() for t in tensors)


def plain_mlp(m, x):
    a = m[0](x).clamp(min=0)
    b = m[2](a).clamp(0, 1)
    return {"1": [a], "3": [b]}


def plain_cnn(m, x):
    return {"1": [m[0](x).clamp(min=0)]}


def plain_transformer(m, x):
    seen = {}
    for i, layer in enumerate(m.layers):
        x = layer.norm1(x + layer.self_attn(x, x, x, need_weights=False)[0])
        hidden = layer.linear1(x).clamp(min=0)
        seen[f"layers.{i}"] = [hidden]
        x = layer.norm2(x + layer.linear2(hidden))
    return seen


def plain_outer(m, x):
    a = m.inner.a(x).clamp(min=0)
    b = m.inner.b(a).clamp(min=0)
    return {"act": [(b - 0.2).clamp(0, 6)], "inner": [a, b, b]}


CASES = {
    "mlp": (mlp, plain_mlp, (6, 4)),
    "cnn": (cnn, plain_cnn, (6, 1, 6, 6)),
    "transformer": (transformer, plain_transformer, (6, 5, 8)),
    "functions": (Outer, plain_outer, (6, 4)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("count", [1, 3])
def test_shares_equal_those_of_a_forward_pass_written_out(name, count):
    make, plain, shape = CASES[name]
    model = make().double()
    xs = [torch.randn(shape, dtype=torch.float64) for _ in range(count)]
    # eval mode: dropout has no place in the twin
    objective = Objective.of_batches(model, lambda x: model(x).square().mean(), xs, train=False)
    measure, memory = ActivationSparsity(), {}
    with torch.no_grad():
        each = [plain(model.eval(), x) for x in xs]
    model.train()
    layers = {k: [t for seen in each for t in seen[k]] for k in each[0]}
    for _ in range(2):
        with landscape(objective, memory=memory) as at:
            values = measure.read(at).values
        twin = {f"curvature/layer/{k}/nonzero_share": share(*v) for k, v in layers.items()}
        twin["curvature/nonzero_share"] = share(*[t for v in layers.values() for t in v])
        stderr = values.get("curvature/nonzero_share_stderr")
        assert {k: v for k, v in values.items() if "stderr" not in k} == pytest.approx(twin)
    assert (objective.counts.forwards, objective.counts.gradients) == (2, 0)
    known = set(measure.metrics_of(model, []))
    assert known <= set(values)
    assert (known == set(twin)) == (name != "functions")
    if count == 1:
        assert stderr is None
    else:
        shares = [share(*[t for v in seen.values() for t in v]) for seen in each]
        mean = sum(shares) / count
        spread = sum((s - mean) ** 2 for s in shares) / (count - 1) / count
        assert stderr == pytest.approx(math.sqrt(spread))


def test_it_is_that_of_training_with_its_dropout():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.ReLU(), nn.Linear(50, 1))
    x = torch.randn(40, 4)
    with landscape(Objective.of_batches(model, lambda x: model(x).mean(), [x])) as at:
        values = ActivationSparsity().read(at).values
    assert values["curvature/layer/2/nonzero_share"] == pytest.approx(0.25, abs=0.05)


def test_without_a_relu_there_is_nothing_and_the_note_says_so():
    model = nn.Sequential(nn.Linear(4, 5), nn.GELU())
    with landscape(Objective.of_batches(model, lambda x: model(x).mean(), [torch.ones(2, 4)])) as at:
        reading = ActivationSparsity().read(at)
    assert math.isnan(reading.values["curvature/nonzero_share"])
    assert "GELU" in reading.notes[0]


def relu_net():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def test_in_a_trainer_and_in_a_loop_it_leaves_no_hook_and_no_trace():
    from torch.nn.modules import module as internals

    ends = []
    for measures in ([], [ActivationSparsity()]):
        torch.manual_seed(0)
        net = relu_net()
        monitor = CurvatureMonitor(measures, every_n_steps=1, on_error="raise")
        trainer = fit(Classifier(net), monitor, max_steps=3)
        ends.append(copy.deepcopy(net.state_dict()))
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])
    assert not internals._global_forward_hooks
    assert not internals._global_forward_pre_hooks
    assert "curvature/layer/net.1/nonzero_share" in set(trainer.logger.keys())
    torch.manual_seed(0)
    net = relu_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loss_fn = lambda net, batch: F.cross_entropy(net(batch[0]), batch[1])  # noqa: E731
    with Watch(net, optimizer, loss_fn, [ActivationSparsity()], every_n_steps=1) as watch:
        for batch in list(batches())[:3]:
            loss_fn(net, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            watch.step(batch)
    inside = "curvature/layer/1/nonzero_share"
    in_trainer = monitor.history["curvature/layer/net.1/nonzero_share"].values
    assert watch.history[inside].values.tolist() == in_trainer.tolist()
