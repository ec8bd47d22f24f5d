"""Bumps, lengths and turns on curves that are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from curvwatch import CurvwatchError, CurvwatchWarning
from curvwatch.landscape import Interpolation, Path, interpolate, plot_interpolations, surface_of
from curvwatch.landscape.paths.gauss_length import gauss_length, outputs_at
from tests.landscape.hills import cnn, f64, images, surface, surface_of_net
from tests.support.modules import mlp
from tests.support.trace import assert_same, picture, world

quiet: dict[str, Any] = {"progress": False}


def line(function: Any, **options: Any) -> Interpolation:
    """A curve of losses over alpha."""
    return interpolate(surface(lambda w: function(w[0]), 1), f64(0), f64(1), **options, **quiet)


# the largest rise, and whether there is one


@pytest.mark.parametrize(
    ("function", "bump"),
    [
        (lambda x: 2 - x, 0.0),
        (lambda x: (1 - x) ** 4, 0.0),
        (lambda x: x**2, 1.0),
        (lambda x: (x - 0.5) ** 2, 0.25),
        # two rises: the second begins lower and ends lower, and is the larger one
        (lambda x: torch.cos(2 * math.pi * x) * 0.5 - x + 0.0 * x, None),
        # the rise counts from the lowest point before, across a bump in between
        (lambda x: torch.where(x < 0.5, -x, -0.5 + 2 * (x - 0.5)), 1.0),
    ],
)
def test_the_bump_is_the_largest_rise(function, bump):
    found = line(function, points=101)
    x = np.linspace(0, 1, 101)
    losses = np.array([float(function(torch.tensor(v, dtype=torch.float64))) for v in x])
    np.testing.assert_allclose(found.losses, losses, atol=1e-12)
    by_hand = max(losses[j] - losses[i] for j in range(101) for i in range(j))
    assert found.bump == pytest.approx(max(0.0, by_hand), abs=1e-12)
    if bump is not None:
        assert found.bump == pytest.approx(bump, abs=1e-12)
    assert found.monotone == (bump == 0.0)
    assert found.resolution == pytest.approx(0.01)


def test_monotone_up_to_a_tolerance():
    wavy = lambda x: -x + 0.02 * torch.sin(40 * math.pi * x)  # noqa: E731
    found = line(wavy)
    assert 0.0 < found.bump < 0.04
    assert not found.monotone
    assert line(wavy, tolerance=0.04).monotone
    noisy = line(lambda x: 3 - x + 1e-15 * torch.sin(1e3 * x))  # rounding
    assert noisy.monotone
    assert 0 < noisy.tolerance < 1e-13


def test_losses_that_are_not_finite_are_no_descent():
    found = line(lambda x: -torch.log(x))
    assert found.losses[0] == math.inf
    assert found.bump == math.inf
    assert not found.monotone
    assert "not finite" in found.notes[0]


# lengths


def test_counters_in_snapshots_do_not_matter_to_the_length_of_the_way():
    module = mlp()
    module.register_buffer("calls", torch.zeros(()))
    f = surface_of(module, [torch.ones(2, 6)], loss_fn=lambda m, x: m(x).sum())
    state = {n: t.clone() for n, t in module.state_dict().items()}
    way = [{**state, "calls": torch.tensor(float(i))} for i in range(3)]
    way[1]["0.bias"] = state["0.bias"] + 1.0
    found = interpolate(f, state, state, snapshots=way, points=3, outputs=False, **quiet)
    assert found.path_length == pytest.approx(2 * 8**0.5)
    with pytest.warns(CurvwatchWarning, match="other values of buffers: calls"):
        interpolate(f, state, way[1], points=3, outputs=False, **quiet)


def test_the_way_of_the_optimizer_is_longer_than_the_line():
    steps = [f64(0, 0), f64(3, 4), f64(3, 0), f64(6, 0)]
    bowl = surface(lambda w: w.square().sum())
    found = interpolate(bowl, steps[0], steps[-1], snapshots=steps, **quiet)
    assert found.distance == 6.0
    assert found.path_length == 5 + 4 + 3
    by_step = dict(enumerate(steps))
    assert interpolate(bowl, steps[0], steps[-1], snapshots=by_step, **quiet).path_length == 12
    other = interpolate(bowl, steps[0], f64(0, 7), snapshots=steps, **quiet)
    assert any("do not lead from a to b" in note for note in other.notes)
    one = interpolate(bowl, steps[0], steps[-1], snapshots=steps[:1], **quiet)
    assert math.isnan(one.path_length)
    assert any("1 snapshots" in note for note in one.notes)
    assert math.isnan(interpolate(bowl, steps[0], steps[-1], **quiet).path_length)


def circle(w: Tensor) -> Tensor:
    """Three examples: half a circle, a whole one, a straight line."""
    x = w[0] * math.pi
    nothing = torch.zeros_like(x)
    rows = [
        torch.stack([torch.cos(x), torch.sin(x)]),
        torch.stack([torch.cos(2 * x), torch.sin(2 * x)]),
        torch.stack([x, nothing]),
    ]
    return torch.stack(rows)


def test_gauss_lengths_of_circles():
    for points in (51, 201):
        found = line(lambda x: x, points=points, outputs=circle)
        # a polygon of n steps has n - 1 corners
        corners = (points - 2) / (points - 1)
        assert found.gauss.each == pytest.approx((math.pi + 2 * math.pi + 0) / 3 * corners, rel=1e-9)
        assert abs(found.gauss.each - math.pi) < found.gauss.each_error < 0.1
    # the joint tangent, (cos, sin of pi x, 2 cos, 2 sin of 2 pi x, 1) / sqrt(6), has a constant speed
    speed = math.pi * math.sqrt((1 + 4 * 4) / 6)
    assert found.gauss.joint == pytest.approx(speed * corners, rel=1e-3)
    assert abs(found.gauss.joint - speed) < found.gauss.joint_error


def test_a_straight_line_does_not_turn_and_one_that_turns_back_turns_by_pi():
    straight = gauss_length([torch.tensor([[x, 2 * x]]) for x in (0.0, 1.0, 1.0, 1.5)], eps=0.0)
    assert (straight.joint, straight.each) == (0.0, 0.0)
    back = gauss_length([torch.tensor([[x, 2 * x]]) for x in (0.0, 1.0, 0.5)], eps=0.0)
    assert back.joint == pytest.approx(math.pi)
    still = gauss_length([torch.ones(1, 2)] * 3, eps=1e-7)
    assert (still.joint, still.joint_error) == (0.0, 0.0)


def test_rounding_shows_in_the_error():
    """Outputs that hardly move: the turns are noise, and the error says so."""
    generator = torch.Generator().manual_seed(0)
    noise = 1e-7 * torch.randn(20, 1, 3, generator=generator)
    found = gauss_length([1 + z for z in noise], eps=torch.finfo(torch.float32).eps)
    assert found.joint > 10
    assert found.joint_error > 0.5 * found.joint


# outputs of networks


def test_outputs_of_a_network_are_found_and_are_those_that_are_given():
    net = cnn()
    a = {n: t.clone() for n, t in net.state_dict().items()}
    for mode, parts in (("eval", 1), ("eval", 3), ("train", 2)):
        f = surface_of_net(net, images(), parts=parts, mode=mode)
        b = f.start + 0.05 * torch.randn(
            f.size, dtype=f.dtype, generator=torch.Generator().manual_seed(1)
        )
        z, y = outputs_at(f, b, None), images()[1]
        assert float(F.cross_entropy(z, y)) == pytest.approx(f.loss(b), rel=1e-12)
        before = picture(net), world()
        found = interpolate(f, a, b, points=7, **quiet)
        given = interpolate(f, a, b, points=7, outputs=lambda net, batch: net(batch[0]), **quiet)
        assert_same((picture(net), world()), before, "net")
        assert 0 < found.gauss.each < 20
        assert vars(given.gauss) == pytest.approx(vars(found.gauss), rel=1e-9)
        none = interpolate(f, a, b, points=7, outputs=False, **quiet)
        assert math.isnan(none.gauss.joint)
        assert none.notes == ()


def test_the_gauss_length_is_that_of_the_definition():
    """By arc cosines of normalised steps of the network's own outputs."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    y = torch.randn(6, 2, dtype=torch.float64)
    f = surface_of(
        net, [(x[:4], y[:4]), (x[4:], y[4:])], loss_fn=lambda n, b: F.mse_loss(n(b[0]), b[1])
    )
    b = f.start + torch.randn(f.size, dtype=f.dtype)
    found = interpolate(f, f.start, b, points=9, **quiet)
    z = []
    for alpha in np.linspace(0, 1, 9):
        nn.utils.vector_to_parameters(torch.lerp(f.start, b, float(alpha)), net.parameters())
        z.append(net(x).detach())
    steps = torch.stack(z).diff(dim=0)  # (8, examples, outputs)

    def angles(v: Tensor) -> Tensor:
        v = v / v.norm(dim=-1, keepdim=True)
        return torch.acos((v[1:] * v[:-1]).sum(-1)).sum(0)

    assert found.gauss.joint == pytest.approx(float(angles(steps.flatten(1))), rel=1e-6)
    assert found.gauss.each == pytest.approx(float(angles(steps).mean()), rel=1e-6)


def test_a_network_that_is_linear_in_its_weights_does_not_turn():
    net = nn.Linear(3, 2).double()
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 2
    f = surface_of_net(net, (x, y))
    found = interpolate(f, f.start, f.start + torch.randn(f.size, dtype=f.dtype), **quiet)
    assert found.gauss.joint < 1e-12
    assert found.gauss.joint <= found.gauss.joint_error < 1e-10


def test_where_outputs_cannot_be_had_there_is_a_reason():
    found = line(lambda x: x)
    assert math.isnan(found.gauss.joint)
    assert "the outputs of a FunctionSurface cannot be found" in found.notes[0]
    net = nn.Linear(3, 1)
    f = surface_of(net, [torch.randn(4, 3)], loss_fn=lambda net, x: net(x).pow(4).mean())
    own = interpolate(f, f.start, f.start + 1, points=3, **quiet)
    assert math.isnan(own.gauss.joint)
    assert "no Gauss length: the outputs of the network cannot be identified" in own.notes[0]
    assert "outputs=lambda module, batch: ... can give them" in own.notes[0]
    assert np.isfinite(own.losses).all()
    infinite = interpolate(
        f, f.start, f.start + 1, points=3, outputs=lambda net, x: net(x) * math.inf, **quiet
    )
    assert "an output is not finite" in infinite.notes[0]


# the result


def test_it_is_saved_and_comes_back(tmp_path):
    found = line(lambda x: -torch.log(x), snapshots=[f64(0), f64(0.4), f64(1)], outputs=circle)
    again = Interpolation.load(found.save(tmp_path / "line.npz"))
    assert_same(
        {n: v for n, v in vars(again).items() if n != "gauss"},
        {n: v for n, v in vars(found).items() if n != "gauss"},
        "line",
    )
    assert again.gauss == found.gauss
    with pytest.raises(CurvwatchError, match="another kind, 'interpolation': 'path' is needed"):
        Path.load(tmp_path / "line.npz")


def test_figures_and_arguments():
    (axes,) = plot_interpolations([line(lambda x: -x), line(lambda x: x)], labels=["down", "up"]).axes
    texts = [t.get_text() for t in axes.get_legend().get_texts()]
    assert texts == ["down: monotone", "up: rises by 1"]
    assert line(lambda x: x).plot().axes[0].get_xlabel() == "alpha, from a to b"
    with pytest.raises(ValueError, match="points=2"):
        line(lambda x: x, points=2)
    with pytest.raises(ValueError, match="tolerance=-1"):
        line(lambda x: x, tolerance=-1)
    with pytest.raises(ValueError, match="Linear is no LightningModule"):
        interpolate(nn.Linear(1, 1), f64(0), f64(1))
