"""Permuted networks are brought back, and compute the same."""

from __future__ import annotations

import re
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from curvwatch import CurvwatchError
from curvwatch.landscape import align, path
from curvwatch.landscape.alignment.units import units_of
from tests.landscape.hills import cnn, cross_entropy, images, surface_of_net
from tests.support.modules import Classifier
from tests.support.trace import assert_same, picture, world


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(5, 7),
        nn.Tanh(),
        nn.Sequential(nn.Linear(7, 6, bias=False), nn.ReLU()),
        nn.Linear(6, 2),
    ).double()


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in module.state_dict().items()}


def shuffled(state: dict[str, Tensor], spec: Any, seed: int = 5) -> dict[str, Tensor]:
    """Permuted as `spec` says, written out again: an axis k times as long moves in blocks."""
    generator = torch.Generator().manual_seed(seed)
    new, orders = dict(state), {}
    sizes: dict[str, int] = {}
    for name, axes in spec.items():
        for axis, p in enumerate(axes):
            if p is not None:
                sizes[p] = min(sizes.get(p, 10**9), state[name].shape[axis])
    for name, axes in spec.items():
        for axis, p in enumerate(axes):
            if p is None:
                continue
            if p not in orders:
                orders[p] = torch.randperm(sizes[p], generator=generator)
            parts = new[name].chunk(sizes[p], dim=axis)
            new[name] = torch.cat([parts[i] for i in orders[p].tolist()], dim=axis)
    return new


@pytest.mark.parametrize("make", [mlp, cnn])
def test_a_permuted_network_is_brought_back(make):
    module = make()
    a, spec = state_of(module), units_of(module)
    b = shuffled(a, spec)
    assert any(not torch.equal(a[n], b[n]) for n in a)
    found = align(module, a, b)
    assert found.distance_before > 0.5
    assert found.distance == pytest.approx(0.0, abs=1e-12)
    assert found.error < 1e-12
    assert found.moved > 0.5
    for name in a:  # statistics of batch norm, too
        assert torch.equal(found.state[name], a[name]), name


def test_the_line_to_the_permuted_network_has_a_barrier_and_none_once_it_is_aligned():
    module = cnn()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.03)
    for _ in range(40):
        optimizer.zero_grad()
        cross_entropy(module, images()).backward()
        optimizer.step()
    a = state_of(module)
    b = shuffled(a, units_of(module))
    for mode in ("train", "eval"):
        f = surface_of_net(module, images(), mode=mode)
        before = path(f, a, b, points=9, refine=2, progress=False)
        after = path(f, a, align(module, a, b), points=9, refine=2, progress=False)
        assert before.barrier > 0.1
        assert after.barrier == 0.0
        assert after.length == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("make", [mlp, cnn])
def test_two_networks_come_nearer_and_stay_what_they_are(make):
    module, other = make(), make()
    a, b = state_of(module), state_of(other)
    module.train()
    before = picture(module), world()
    found = align(module, a, b, seed=3)
    assert_same((picture(module), world()), before, "module")
    assert found.distance < 0.97 * found.distance_before
    assert 0 < found.error < 1e-12
    weights = dict(module.named_parameters())
    for state, distance in ((b, found.distance_before), (found.state, found.distance)):
        by_hand = sum(float((state[n] - a[n]).square().sum()) for n in weights) ** 0.5
        assert distance == pytest.approx(by_hand)
    x = images()[0] if make is cnn else torch.randn(9, 5, dtype=torch.float64)
    outputs = []
    for state in (b, found.state):
        other.load_state_dict(state)
        outputs.append(other.eval()(x))
    assert not torch.equal(*(s["0.weight"] for s in (b, found.state)))
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-12)
    again = align(module, a, b, seed=3)
    assert again.permutations.keys() == found.permutations.keys()
    assert all(np.array_equal(again.permutations[p], found.permutations[p]) for p in found.permutations)


def test_one_hidden_layer_is_matched_as_well_as_can_be():
    """By trying all orders."""
    from itertools import permutations

    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    a, b = (
        state_of(module),
        state_of(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()),
    )
    rows = [torch.cat([s["0.weight"], s["0.bias"][:, None], s["2.weight"].T], dim=1) for s in (a, b)]
    least = min(float((rows[0] - rows[1][list(p)]).norm()) for p in permutations(range(5)))
    rest = float((a["2.bias"] - b["2.bias"]).norm())
    assert align(module, a, b).distance == pytest.approx((least**2 + rest**2) ** 0.5)


def test_a_lightning_module_around_a_chain_and_flat_vectors():
    module, other = Classifier(), Classifier()
    flat = [torch.cat([p.detach().reshape(-1) for p in m.parameters()]) for m in (module, other)]
    found = align(module, *flat)
    same = align(module, module, other)
    assert list(found.permutations) == ["net.0"]
    assert found.distance < found.distance_before
    assert_same(dict(found.state), dict(same.state), "state")


def test_buffers_beside_the_chain_do_not_matter():
    class Weighted(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("steps", torch.zeros(()))
            self.criterion = nn.CrossEntropyLoss(weight=torch.ones(3))

    module, other = Weighted(), Weighted()
    found = align(module, module, other)
    assert list(found.permutations) == ["net.0"]
    assert torch.equal(found.state["criterion.weight"], torch.ones(3))


class Residual(nn.Module):
    """x + block(x): the units of the stream change places together."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.block = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x + self.block(x))


STREAM: dict[str, Any] = {
    "first.weight": ("stream", None),
    "first.bias": ("stream",),
    "block.0.weight": ("inner", "stream"),
    "block.0.bias": ("inner",),
    "block.2.weight": ("stream", "inner"),
    "block.2.bias": ("stream",),
    "last.weight": (None, "stream"),
}


def test_other_networks_need_a_spec():
    module, other = Residual(), Residual()
    a, b = state_of(module), state_of(other)
    with pytest.raises(CurvwatchError, match=r"Residual is no chain of layers .* spec="):
        align(module, a, b)
    with pytest.raises(CurvwatchError, match="inputs are missing"):
        align(module, a, b, spec=STREAM)
    x = torch.randn(5, 4)
    found = align(module, a, b, spec=STREAM, inputs=x)
    assert found.distance < found.distance_before
    back = align(module, a, shuffled(a, STREAM), spec=STREAM, inputs=x)
    assert back.distance == pytest.approx(0.0, abs=1e-6)
    named = align(
        module, a, b, spec=STREAM, inputs=[x], forward=lambda module, inputs: module(inputs[0])
    )
    assert named.distance == found.distance


class Mixing(nn.Module):
    """A layer from the stream to the stream: both of its axes follow one permutation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mix, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).tanh()
        return self.last((x + self.mix(x)).tanh())


def test_a_tensor_whose_axes_follow_one_permutation_is_brought_back_and_never_farther():
    spec: dict[str, Any] = {
        **{"first.weight": ("h", None), "first.bias": ("h",), "last.weight": (None, "h")},
        **{"mix.weight": ("h", "h"), "mix.bias": ("h",)},
    }
    x = torch.randn(5, 4)
    for _ in range(20):
        module, other = Mixing(), Mixing()
        a = state_of(module)
        back = align(module, a, shuffled(a, spec), spec=spec, inputs=x)
        assert back.distance == pytest.approx(0.0, abs=1e-6)
        found = align(module, a, other, spec=spec, inputs=x)
        assert found.distance < found.distance_before


class Noisy(Residual):
    """Draws in eval mode, too, counts its calls, spoils what it gets, and has extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y = super().forward(x) + torch.rand(2, dtype=x.dtype)
        x.zero_()
        return y

    def get_extra_state(self) -> Any:
        return {"version": 3}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"version": 3}


def test_forwards_with_side_effects_leave_no_trace_and_compare_alike():
    module, other = Noisy().double(), Noisy().double()
    x = torch.randn(5, 4, dtype=torch.float64)
    before = picture(module), world(), x.clone()
    found = align(module, module, other, spec=STREAM, inputs=x)
    assert_same((picture(module), world(), x), before, "module")
    assert 0 < found.error < 1e-12
    # further training does not reach what was found
    kept = found.state["last.bias"].clone()
    other.last.bias.data.zero_()
    assert torch.equal(found.state["last.bias"], kept)
    assert set(found.state) == {n for n, t in module.state_dict().items() if isinstance(t, Tensor)}


def test_a_spec_that_forgets_an_axis_is_refused():
    module = Residual()
    a, b = state_of(module), state_of(Residual())
    lacking = {n: axes for n, axes in STREAM.items() if n != "last.weight"}
    with pytest.raises(CurvwatchError, match="computes something else: its outputs differ by"):
        align(module, a, b, spec=lacking, inputs=torch.randn(5, 4))
    with pytest.raises(CurvwatchError, match=r"the spec names head\.weight"):
        align(module, a, b, spec={"head.weight": ("p", None)}, inputs=torch.randn(5, 4))
    with pytest.raises(CurvwatchError, match=r"the spec of first\.weight is \('p',\)"):
        align(module, a, b, spec={"first.weight": ("p",)}, inputs=torch.randn(5, 4))
    for wrong in ("p", None, (1,), [("p",)]):
        said = re.escape(f"the spec of first.bias is {wrong!r}, and its shape is (6,)")
        with pytest.raises(CurvwatchError, match=said):
            align(module, a, b, spec={"first.bias": wrong}, inputs=torch.randn(5, 4))
    with pytest.raises(CurvwatchError, match="cannot be shared among the 6 units"):
        align(
            module, a, b, spec={"first.bias": ("p",), "block.0.bias": ("p",)}, inputs=torch.randn(5, 4)
        )


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x], dim=1)


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        (nn.Sequential(nn.Linear(3, 4), Doubled(), nn.Linear(8, 2)), r"1 \(Doubled\)"),
        (nn.Sequential(nn.Linear(3, 4), nn.Softmax(1), nn.Linear(4, 2)), r"1 \(Softmax\)"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2)), r"1 \(Conv2d\)"),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3)), r"1 \(GroupNorm\)"),
        (nn.Sequential(nn.Linear(3, 4), nn.GRU(4, 4)), r"1 \(GRU\)"),
        (nn.Sequential(nn.Conv1d(1, 4, 3), nn.Linear(6, 2)), r"1 \(Linear\)"),
        (nn.Sequential(nn.Tanh()), "no linear layer"),
        (nn.Sequential(nn.Linear(3, 2)), "no hidden units"),
    ],
)
def test_what_cannot_be_told_is_refused_in_words(chain, message):
    a = state_of(chain)
    with pytest.raises(CurvwatchError, match=message):
        align(chain, a, a)


def test_a_layer_that_comes_twice_is_refused():
    layer = nn.Linear(4, 4)
    chain = nn.Sequential(nn.Linear(3, 4), layer, nn.ReLU(), layer)
    with pytest.raises(CurvwatchError, match="comes more than once"):
        align(chain, state_of(chain), state_of(chain))
    tied = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    tied[2].weight = tied[0].weight
    with pytest.raises(CurvwatchError, match=r"0\.weight and 2\.weight are one tensor"):
        align(tied, state_of(tied), state_of(tied))


def test_checkpoints_that_do_not_fit():
    module = mlp()
    a = state_of(module)
    with pytest.raises(CurvwatchError, match=r"lacks 0\.weight, .*; it has 0\.bias"):
        align(module, a, {"0.bias": a["0.bias"]})
    with pytest.raises(CurvwatchError, match=r"0\.bias has the shape \(3,\)"):
        align(module, a, {**a, "0.bias": torch.zeros(3)})
    for a_bad, b_bad in ((False, True), (True, False)):
        states = [{**a, "0.bias": a["0.bias"] / (0 if bad else 1)} for bad in (a_bad, b_bad)]
        with pytest.raises(CurvwatchError, match=rf"0\.bias of {'ba'[a_bad]} is not finite"):
            align(module, *states)
    with pytest.raises(CurvwatchError, match="a flat vector of the"):
        align(module, a, torch.zeros(3))
    assert issubclass(Classifier, pl.LightningModule)
