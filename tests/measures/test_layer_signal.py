"""Signals against closed forms of linear networks, and torch.func.jvp in float64."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, jvp
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from curvwatch import CurvatureMonitor, Objective, Watch
from curvwatch.measures import LayerSignal
from tests.measures.output_twins import jacobian
from tests.measures.points import landscape, objective_of
from tests.support.cases import CASES, Case
from tests.support.modules import Classifier, batches, fit, told

pytestmark = [
    pytest.mark.usefixtures("double_precision"),
    # torch's own, when its jvp is first used
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
]


def relu_net():
    return nn.Sequential(
        nn.Linear(6, 9), nn.ReLU(inplace=True), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4)
    )


def encoder():
    layer = nn.TransformerEncoderLayer(6, 2, 12, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(6, 4))


def sequences(n):
    return torch.randn(n, 3, 6), torch.randn(n, 3, 4)


NETS = {
    **{name: (case, case.model) for name, case in CASES.items()},
    "relu": (CASES["mlp_mse"], relu_net),
    "encoder": (Case("encoder", encoder, F.mse_loss, sequences), encoder),
}
# of modules without a call of their own, and the module that is called for them
OWNERS = {"0.layers.0.self_attn.out_proj": "0.layers.0.self_attn"} | {
    "0.layers.1.self_attn.out_proj": "0.layers.1.self_attn"
}


def layers(model):
    """From each layer to the names of its weights."""
    found = {}
    for name, _ in model.named_parameters():
        owner = name.rpartition(".")[0]
        found.setdefault(OWNERS.get(owner, owner), []).append(name)
    return found


def drawn(model, n, *, seed=0):
    """The directions of a reading: (n, weights), of unit length in each layer."""
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n, sum(sizes.values()), generator=generator)
    each = []
    for v in vectors:
        parts = dict(zip(sizes, v.split(list(sizes.values())), strict=True))
        for names in layers(model).values():
            length = math.sqrt(sum(float(parts[k] @ parts[k]) for k in names))
            parts.update({k: parts[k] / length for k in names})
        each.append({k: parts[k].view_as(p) for k, p in model.named_parameters()})
    return each


def changed(model, x, tangents):
    """Outputs of each layer and of `model`, and their derivatives, by jvp of the plain module."""
    weights = {n: p.detach() for n, p in model.named_parameters()}
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    here = layers(model)

    def outputs(moving):
        seen = {name: [] for name in here}

        def keep(name):
            def hook(module, args, result):
                result = result[0] if isinstance(result, tuple) else result
                seen[name].append(result.clone())

            return hook

        handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in here]
        try:
            state = {**copy.deepcopy(buffers), **moving}
            seen["z"] = [functional_call(model, state, (x,))]
        finally:
            for handle in handles:
                handle.remove()
        return seen

    tangents = {k: tangents.get(k, torch.zeros_like(w)) for k, w in weights.items()}
    with sdpa_kernel(SDPBackend.MATH):  # the others have no jvp
        return jvp(outputs, (weights,), (tangents,))


def norm(tensors):
    return math.sqrt(sum(float(t.detach().square().sum()) for t in tensors))


def twin(model, xs, n):
    """Value and standard error of each signal, over all of `xs`."""
    if hasattr(model, "by_hand"):
        model.by_hand = True
    size = {k: norm(p for w, p in model.named_parameters() if w in v) for k, v in layers(model).items()}
    found = {name: [] for name in [*layers(model), None]}
    for direction in drawn(model, n):
        for name in found:
            if name is None:
                scale = {w: size[k] for k, names in layers(model).items() for w in names}
                tangents = {w: scale[w] * v for w, v in direction.items()}
            else:
                tangents = {w: direction[w] for w in layers(model)[name]}
            values, changes = zip(*(changed(model, x, tangents) for x in xs), strict=True)
            relative = norm(c["z"][0] for c in changes) / norm(v["z"][0] for v in values)
            if name is not None:
                relative /= norm(t for c in changes for t in c[name]) / norm(
                    t for v in values for t in v[name]
                )
            found[name].append(relative)
    metrics = {
        k: "curvature/layer_signal" if k is None else f"curvature/layer/{k}/signal" for k in found
    }
    return {
        key: value
        for k, each in found.items()
        for key, value in (
            (metrics[k], np.mean(each)),
            (f"{metrics[k]}_stderr", np.std(each, ddof=1) / math.sqrt(n)),
        )
    }


def read(objective, measure=None, **options):
    with landscape(objective, **options) as at:
        return (measure or LayerSignal()).read(at)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", NETS)
def test_signals_are_those_by_jvp(name, count):
    case, make = NETS[name]
    model = make()
    data = [case.batch(5), case.batch(3)][:count]
    measure = LayerSignal(probes=3)
    reading = read(objective_of(case, model, data), measure)
    assert not reading.notes
    assert not reading.doubts
    assert set(reading.values) == set(measure.metrics_of(model, list(model.parameters())))
    assert reading.values == pytest.approx(twin(model, [x for x, _ in data], 3), rel=1e-9)


def test_the_change_of_the_outputs_is_that_of_the_jacobian_row_by_row():
    """By reverse mode, of which jvp knows nothing."""
    case = CASES["cnn_batchnorm"]
    model, batch = case.model(), case.batch(6)
    values = read(objective_of(case, model, [batch]), LayerSignal(probes=2)).values
    z, J = jacobian(model, batch[0])
    size = {k: norm(p for w, p in model.named_parameters() if w in v) for k, v in layers(model).items()}
    owner = {w: k for k, names in layers(model).items() for w in names}
    whole = [
        float(
            (J @ torch.cat([(size[owner[w]] * v).reshape(-1) for w, v in d.items()])).norm() / z.norm()
        )
        for d in drawn(model, 2)
    ]
    assert values["curvature/layer_signal"] == pytest.approx(np.mean(whole))


@pytest.mark.parametrize("hvp", ["exact", "difference"])
def test_a_linear_network(hvp):
    """Of W2 W1 x layer 1 is amplified by |W2 D X| |W1 X| / (|D X| |W2 W1 X|), and layer 2 by 1."""
    model = nn.Sequential(nn.Linear(5, 6, bias=False), nn.Linear(6, 3, bias=False))
    W1, W2 = model[0].weight.detach(), model[1].weight.detach()
    xs = [torch.randn(4, 5), torch.randn(2, 5)]
    objective = Objective.of_batches(model, lambda x: F.mse_loss(model(x), x[:, :3]), xs, hvp=hvp)
    reading = read(objective)
    X = torch.cat(xs).T
    first, whole = [], []
    for direction in drawn(model, 4):
        D1, D2 = direction.values()
        own = (D1 @ X).norm() / (W1 @ X).norm()
        first.append(float((W2 @ D1 @ X).norm() / (W2 @ W1 @ X).norm() / own))
        D1, D2 = W1.norm() * D1, W2.norm() * D2
        whole.append(float((W2 @ D1 @ X + D2 @ W1 @ X).norm() / (W2 @ W1 @ X).norm()))
    stderr = [np.std(each, ddof=1) / 2 for each in (first, whole)]
    assert reading.values == pytest.approx(
        {
            "curvature/layer/0/signal": np.mean(first),
            "curvature/layer/0/signal_stderr": stderr[0],
            "curvature/layer/1/signal": 1.0,
            "curvature/layer/1/signal_stderr": 0.0,
            "curvature/layer_signal": np.mean(whole),
            "curvature/layer_signal_stderr": stderr[1],
        },
        rel=1e-7,
        abs=1e-9,
    )
    assert not reading.doubts
    # two layers and the whole, 4 directions; 2 forward passes to compare; or 2 a direction, 2 at half
    # the distance, and one for the sizes
    assert objective.counts.forwards == (3 * 4 + 2 if hvp == "exact" else 3 * (2 * 4 + 2) + 1)
    assert (objective.counts.gradients, objective.counts.products) == (3 if hvp == "exact" else 0, 0)


def test_what_follows_is_a_rotation_so_nothing_is_amplified():
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 6, bias=False))
    nn.init.orthogonal_(model[1].weight)
    x = torch.randn(7, 5)
    values = read(Objective.of_batches(model, lambda x: model(x).square().mean(), [x])).values
    assert values["curvature/layer/0/signal"] == pytest.approx(1.0, abs=1e-12)
    assert values["curvature/layer/0/signal_stderr"] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", ["relu", "cnn_batchnorm", "transformer_sdpa"])
def test_differences_are_the_derivatives(name):
    case, make = NETS[name]
    model, data = make(), [case.batch(5), case.batch(3)]
    exact, differences = (
        read(objective_of(case, model, data, hvp=hvp), LayerSignal(probes=2))
        for hvp in ("exact", "difference")
    )
    assert not differences.doubts
    assert differences.values == pytest.approx(exact.values, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("hvp", ["exact", "difference"])
def test_the_direction_of_the_gradient(hvp):
    case = CASES["mlp_cross_entropy"]
    model, batch = case.model(), case.batch(6)
    measure = LayerSignal(direction="gradient")
    values = read(objective_of(case, model, [batch], hvp=hvp), measure).values
    assert set(values) == set(measure.metrics_of(model, list(model.parameters())))
    assert not any("stderr" in name for name in values)
    loss = case.loss(model(batch[0]), batch[1])
    gradient = dict(
        zip(dict(model.named_parameters()), torch.autograd.grad(loss, model.parameters()), strict=True)
    )
    first = {k: v for k, v in gradient.items() if k.startswith("0.")}
    there, change = changed(model, batch[0], first)
    own = norm(change["0"]) / norm(there["0"])
    expected = norm(change["z"]) / norm(there["z"]) / own
    assert values["curvature/layer/0/signal"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.study
def test_standard_errors_fall_as_one_over_the_root_of_the_directions():
    case = CASES["mlp_mse"]
    model = case.model()
    objective = objective_of(case, model, [case.batch(8)])
    metric = "curvature/layer/0/signal"
    counts, errors = [4, 16, 64], []
    for n in counts:
        values = [read(objective, LayerSignal(probes=n), seed=seed).values for seed in range(6)]
        errors.append(np.mean([v[f"{metric}_stderr"] for v in values]))
        if n == 16:  # and they are what readings scatter by
            scatter = np.std([v[metric] for v in values], ddof=1)
            assert 0.4 < errors[-1] / scatter < 2.5
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.1)


class ByHand(nn.Module):
    """Calls no module, and `unused` not at all."""

    def __init__(self):
        super().__init__()
        self.lin, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return F.linear(x, self.lin.weight, self.lin.bias)


def test_where_nothing_is_called_there_is_no_signal_and_the_note_says_so():
    model = ByHand()
    objective = Objective.of_batches(
        model, lambda x: model.forward(x).square().mean(), [torch.ones(2, 4)]
    )
    reading = read(objective)
    assert len(reading.values) == 6
    assert all(map(math.isnan, reading.values.values()))
    assert reading.notes == ("no module with weights was called, so no layer has a signal",)


def test_a_layer_that_is_not_called():
    model = nn.ModuleDict({"a": nn.Linear(4, 3), "b": ByHand()})
    objective = Objective.of_batches(model, lambda x: model["a"](x).square().mean(), [torch.ones(2, 4)])
    reading = read(objective)
    assert reading.values["curvature/layer/a/signal"] == pytest.approx(1.0)
    assert math.isnan(reading.values["curvature/layer/b.lin/signal"])
    assert reading.notes == ("no signal of b.lin, b.unused: not called in the forward pass",)


def test_zeros_have_no_relative_change():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    reading = read(Objective.of_batches(model, lambda x: model(x).exp().mean(), [torch.ones(2, 4)]))
    assert reading.notes == ("the outputs of the network are zero, or not known",)
    model[2].bias.data.fill_(1.0)
    model[0].bias.data.fill_(-100.0)  # dead
    reading = read(Objective.of_batches(model, lambda x: model(x).exp().mean(), [torch.ones(2, 4)]))
    assert reading.values["curvature/layer/0/signal"] == 0.0


class Twice(nn.Module):
    """A recurrent cell, weights in a list, and a head that shares its weight with the embedding."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4, padding_idx=0)
        self.cell = nn.RNNCell(4, 4)
        self.scales = nn.ParameterList([torch.ones(4), torch.ones(4)])
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        h = torch.zeros(len(tokens), 4)
        for x in self.embed(tokens).unbind(1):
            h = self.cell(x, h) * self.scales[0] + self.scales[1]
        return self.head(h)


@pytest.mark.parametrize("hvp", ["exact", "difference"])
def test_calls_are_counted_together_and_shared_weights_move_together(hvp):
    model, tokens = Twice(), torch.randint(0, 7, (5, 3))
    tokens[0, 0] = 0
    objective = Objective.of_batches(
        model, lambda t: F.cross_entropy(model(t), t[:, 0]), [tokens], hvp=hvp
    )
    reading = read(objective, LayerSignal(probes=2))
    assert not reading.notes + reading.doubts
    assert set(reading.values) >= {f"curvature/layer/{k}/signal" for k in ("embed", "cell")}
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    vectors = torch.randn(2, sum(sizes.values()), generator=torch.Generator().manual_seed(0))
    expected = []
    for v in vectors:
        parts = dict(zip(sizes, v.split(list(sizes.values())), strict=True))
        D = parts["embed.weight"].view(7, 4)
        D[0] = 0.0  # padding

        def outputs(E):
            h = torch.zeros(5, 4)
            for x in E[tokens].unbind(1):
                h = model.cell(x, h) * model.scales[0] + model.scales[1]
            return E[tokens], h @ E.T

        with torch.no_grad():
            (y, z), (dy, dz) = jvp(outputs, (model.embed.weight.detach(),), (D,))
        expected.append(float(dz.norm() / z.norm() / (dy.norm() / y.norm())))
    assert reading.values["curvature/layer/embed/signal"] == pytest.approx(np.mean(expected), rel=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        lambda z, y: F.cross_entropy(z, y),
        lambda z, y: F.nll_loss(z.log_softmax(1), y),
        lambda z, y: nn.CrossEntropyLoss(label_smoothing=0.1)(z, y) + 0.1 * z.sum(),
        lambda z, y: (z.logsumexp(1) - z.gather(1, y[:, None])[:, 0]).mean(),
    ],
)
@pytest.mark.parametrize("hvp", ["exact", "difference"])
def test_the_outputs_are_the_logits(loss, hvp):
    """Found from the loss function, or the results of the network's outermost call."""
    case = CASES["mlp_cross_entropy"]
    model, (x, y) = case.model(), case.batch(6)
    penalty = lambda: 0.01 * model[0].weight.square().sum()  # noqa: E731
    objective = Objective.of_batches(
        model, lambda b: loss(model(b[0]), b[1]) + penalty(), [(x, y)], hvp=hvp
    )
    values = read(objective, LayerSignal(probes=2)).values
    assert values == pytest.approx(twin(model, [x], 2), rel=1e-6)


def test_outputs_of_several_calls():
    model = nn.Linear(4, 3)
    x = torch.randn(5, 4)
    objective = Objective.of_batches(model, lambda x: (model(x) - model(-x)).square().mean(), [x])
    values = read(objective, LayerSignal(probes=2)).values
    assert values["curvature/layer/weight/signal"] == pytest.approx(1.0)


class WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 3 * x

    @staticmethod
    def backward(ctx, grad):
        return grad


def test_a_wrong_derivative_is_noticed():
    class Net(nn.Sequential):
        def forward(self, x):
            return WrongBackward.apply(super().forward(x))

    model = Net(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    reading = read(Objective.of_batches(model, lambda x: model(x).square().mean(), [torch.ones(2, 4)]))
    assert set(reading.doubtful) == set(reading.values)
    (doubt,) = reading.doubts
    assert "has a wrong derivative" in doubt


@pytest.mark.parametrize("distance", [0.9, 1e-15])
def test_a_distance_that_is_too_long_or_too_short_is_told(distance):
    """Over the kinks of ReLU, and under rounding."""
    model, x = relu_net(), torch.randn(6, 6)
    objective = Objective.of_batches(model, lambda x: model(x).square().mean(), [x], hvp="difference")
    reading = read(objective, LayerSignal(distance=distance))
    assert "curvature/layer/0/signal" in reading.doubtful
    assert "half the distance" in reading.doubts[0]
    assert read(objective).doubts == ()


def test_not_finite():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    x = torch.full((2, 4), torch.inf)
    for hvp in ("exact", "difference"):
        reading = read(Objective.of_batches(model, lambda x: model(x).mean(), [x], hvp=hvp))
        assert all(map(math.isnan, reading.values.values()))
        assert "not finite" in reading.notes[0]


def test_dropout_is_the_same_in_all_passes():
    model = nn.Sequential(nn.Linear(4, 30), nn.Dropout(0.5), nn.Linear(30, 2))
    x = torch.randn(9, 4)
    each = [
        read(Objective.of_batches(model, lambda x: model(x).square().mean(), [x], hvp=hvp))
        for hvp in ("exact", "difference")
    ]
    assert not each[0].doubts + each[1].doubts
    assert each[0].values == pytest.approx(each[1].values, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"direction": "up"}, "direction='up'"),
        ({"probes": 1}, "probes=1: at least 2"),
        ({"probes": True}, "probes=True"),
        ({"distance": 0}, "distance=0"),
        ({"distance": "far"}, "distance='far'"),
    ],
)
def test_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        LayerSignal(**options)


def with_dropout():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(8, 3))


def test_in_a_trainer_and_in_a_loop_it_leaves_no_hook_and_no_trace():
    from torch.nn.modules import module as internals

    torch.set_default_dtype(torch.float32)
    ends = []
    for measures in ([], [LayerSignal()]):
        torch.manual_seed(0)
        net = with_dropout()
        monitor = CurvatureMonitor(measures, every_n_steps=1, on_error="raise")
        with told() as warnings:
            trainer = fit(Classifier(net), monitor, max_steps=3)
        assert not warnings
        ends.append([*copy.deepcopy(net.state_dict()).values(), torch.get_rng_state()])
    assert all(map(torch.equal, *ends))
    assert not internals._global_forward_hooks
    assert not internals._global_forward_pre_hooks
    assert "curvature/layer/net.0/signal" in set(trainer.logger.keys())
    torch.manual_seed(0)
    net = with_dropout()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loss_fn = lambda net, batch: F.cross_entropy(net(batch[0]), batch[1])  # noqa: E731
    with Watch(net, optimizer, loss_fn, [LayerSignal()], every_n_steps=1) as watch:
        for batch in list(batches())[:3]:
            loss_fn(net, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            watch.step(batch)
    for inside, outside in (("0", "net.0"), ("3", "net.3")):
        in_trainer = monitor.history[f"curvature/layer/{outside}/signal"].values
        assert np.isfinite(in_trainer).all()
        in_loop = watch.history[f"curvature/layer/{inside}/signal"].values
        assert in_loop.tolist() == in_trainer.tolist()
