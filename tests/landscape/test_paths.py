"""Lines, Bezier curves and chains against closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from curvwatch import CurvwatchError, Objective
from curvwatch.landscape import (
    FunctionSurface,
    Path,
    interpolate,
    path,
    plot_paths,
    surface_of,
)
from curvwatch.landscape.paths.curves import Curve
from curvwatch.landscape.paths.fitting import of_batches
from tests.landscape.hills import f64, images, surface, surface_of_net
from tests.support.studies import only
from tests.support.trace import assert_same, picture, world

A, B = f64(-1, 0), f64(1, 0)
quiet: dict[str, Any] = {"progress": False}


def tilted(w):
    """A double well along x whose top is no point of any grid."""
    x, y = w
    return (x**2 - 1) ** 2 + 0.3 * x + y**2


def hill(w):
    return torch.exp(-(w.square().sum()) / (2 * 0.3**2)) + 0.01 * w.square().sum()


# lines


@pytest.mark.parametrize("points", [5, 30, 31])
def test_the_top_of_a_double_well_is_found_off_the_grid(points):
    found = path(surface(tilted), A, B, points=points, **quiet)
    top = np.roots([4, 0, -4, 0.3]).real
    x = top[np.abs(top) < 0.5][0]
    height = (x**2 - 1) ** 2 + 0.3 * x
    assert found.barrier == pytest.approx(height - 0.3, abs=1e-9)  # b is the higher end
    assert found.barrier_t == pytest.approx((x + 1) / 2, abs=1e-4)
    assert found.length == 2.0
    assert (found.losses[0], found.losses[-1]) == (-0.3, 0.3)
    assert found.gradients == 0
    assert found.forwards == len(found.t) + 2


def test_the_line_of_a_convex_loss_has_no_barrier():
    found = path(surface(lambda w: w.square().sum() + w[0]), A, B, **quiet)
    assert found.barrier == 0.0
    assert found.barrier_t == 1.0


def test_a_hill_narrower_than_the_grid_is_found_to_its_top_once_it_is_seen():
    def narrow(w):
        return torch.exp(-((w[0] - 0.024) ** 2) / (2 * 0.02**2))  # at t = .512, .01 wide in t

    found = path(surface(narrow), A, B, points=31, **quiet)
    assert found.barrier == pytest.approx(1.0, abs=1e-6)
    assert found.resolution[0] == pytest.approx(1 / 30)
    assert found.resolution[1] < 0.01


def test_of_two_hills_the_higher_one_counts():
    """On the grid it is the lower one."""

    def two(w):
        x = (w[0] + 1) / 2
        low, high = (
            1.00 * torch.exp(-(((x - 0.25) / 0.1) ** 2)),
            torch.exp(-(((x - 0.7375) / 0.02) ** 2)),
        )
        return low + 1.01 * high

    found = path(surface(two), A, B, points=21, **quiet)
    assert found.losses.max() == pytest.approx(1.01, abs=1e-6)


def test_losses_that_are_not_finite_are_an_infinite_barrier():
    for bad in (math.inf, math.nan):

        def holed(w, bad=bad):
            return torch.where((w[0] - 0.5).abs() < 0.1, bad, w.square().sum())

        found = path(surface(holed), A, B, **quiet)
        assert found.barrier == math.inf
        assert found.barrier_t == pytest.approx(0.7, abs=0.04)
        assert "not finite" in found.notes[0]
        with pytest.raises(CurvwatchError, match="the loss at b is"):
            path(surface(holed), A, f64(0.5, 0), **quiet)


# trained curves


@pytest.mark.parametrize(("kind", "bend"), [("chain", (1.5, 1.5, 6)), ("bezier", (7.5, 3, 10))])
def test_the_bend_minimises_the_mean_loss_over_t(kind, bend):
    """Of a quadratic: the derivative by the bend of the integral over t of the loss, solved by hand."""
    H, g = torch.diag(f64(1, 4)), f64(0.5, 2)
    quadratic = surface(lambda w: w @ H @ w / 2 - g @ w)
    a, b = f64(-1, 0.2), f64(1.5, -0.4)
    minimum = torch.linalg.solve(H, g)
    factor, *parts = bend
    if kind == "chain":  # shares s of the bend on either side: means of s, s^2, s(1-s): 1/2, 1/3, 1/6
        expected = factor * (minimum - (a + b) / parts[1])
    else:  # 2t(1-t): means of it, its square, and its products with the ends': 1/3, 2/15, 1/10
        expected = factor * (minimum / parts[0] - (a + b) / parts[1])
    found = path(
        quadratic, a, b, kind=kind, draws=20, steps=100, optimizer="sgd", learning_rate=0.3, **quiet
    )
    np.testing.assert_allclose(found.controls[1], expected, atol=1e-2)
    np.testing.assert_array_equal(found.controls[[0, 2]], torch.stack([a, b]))
    assert found.gradients == 100 * 20
    assert len(found.training) == 100


@pytest.mark.parametrize(
    ("kind", "optimizer", "learning_rate"),
    only(
        [(kind, *how) for kind in ("bezier", "chain") for how in (("adam", 0.1), ("sgd", 1.0))],
        take=[("bezier", "adam", 0.1), ("chain", "sgd", 1.0)],
    ),
)
def test_a_trained_curve_goes_around_a_hill(kind, optimizer, learning_rate):
    line = path(surface(hill), A, B, **quiet)
    assert line.barrier == pytest.approx(1.0 - 0.01 - math.exp(-0.5 / 0.3**2), abs=1e-9)
    options = {"kind": kind, "optimizer": optimizer, "learning_rate": learning_rate, **quiet}
    found = path(surface(hill), A, B, **options)
    assert found.barrier < 0.02 * line.barrier
    assert found.length > 2.2
    assert abs(found.controls[1][1]) > 0.8  # it began on the line, exactly across the hill
    again = path(surface(hill), A, B, **options)
    np.testing.assert_array_equal(again.controls, found.controls)
    other = path(surface(hill), A, B, seed=1, **options)
    assert not np.array_equal(other.training, found.training)


def test_steps_through_places_that_are_not_finite_are_left_out():
    def walled(w):
        loss = hill(w)
        return loss * math.inf if w.square().sum() < 0.04 else loss

    found = path(surface(walled), A, B, kind="chain", learning_rate=0.03, **quiet)
    assert 0 < np.isinf(found.training).sum() < len(found.training)
    assert "left out" in found.notes[0]
    assert found.barrier < 0.1
    nowhere = surface(lambda w: w.sum() if w[1] == 0 else w.sum() * math.inf)
    with pytest.raises(CurvwatchError, match="in none of 5 steps"):
        path(nowhere, A, B, kind="chain", steps=5, **quiet)


def test_lengths():
    for controls in ([(0, 0), (1, 2), (2, 0)], [(0, 0), (1, 2), (3, -1), (4, 0)]):
        points = torch.tensor(controls, dtype=torch.float64)
        for shape in ("bezier", "chain"):
            curve = Curve.even(shape, points)
            fine = torch.stack([curve.at(t) for t in np.linspace(0, 1, 6001)])
            by_hand = float((fine[1:] - fine[:-1]).norm(dim=1).sum())
            assert curve.length == pytest.approx(by_hand, rel=1e-6)
    parabola = Curve.even("bezier", torch.tensor([(0, 0), (1, 2), (2, 0)], dtype=torch.float64))
    exact = math.sqrt(5) + math.asinh(2) / 2
    assert parabola.length == pytest.approx(exact, rel=1e-12)


# on networks


def net() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 5),
        nn.BatchNorm1d(5),
        nn.Dropout(0.3),
        nn.Tanh(),
        nn.Linear(5, 3),
    ).double()


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_nothing_is_left_on_the_module(mode):
    module = net()
    f = surface_of_net(module, images(), parts=3, mode=mode)
    b = f.start + 0.1 * torch.randn(f.size, dtype=f.dtype)
    module.train()
    before = picture(module), world()
    for kind, options in {
        "line": {},
        "chain": {"batches_per_step": 1, "steps": 4},
        "bezier": {"steps": 2},
        "band": {"steps": 2, "pivots": 2},
    }.items():
        found = path(f, f.start, b, kind=kind, points=4, refine=1, **options, **quiet)
        assert np.isfinite(found.losses).all()
    assert_same((picture(module), world()), before, "module")


def test_a_step_may_use_some_of_the_batches():
    f = surface_of_net(net(), images(), parts=4)
    b = f.start + torch.randn(f.size, dtype=f.dtype)
    whole = path(f, f.start, b, kind="chain", steps=6, draws=3, **quiet)
    part = path(f, f.start, b, kind="chain", steps=6, draws=3, batches_per_step=1, **quiet)
    assert whole.gradients == 18
    assert part.gradients == pytest.approx(18 / 4)
    each = [of_batches(f, [i]) for i in range(4)]
    assert sum(share for _, share in each) == pytest.approx(1.0)
    # batch norm has the statistics of the batches that are looked at
    train = surface_of_net(net(), images(), parts=4, mode="train")
    each = [of_batches(train, [i]) for i in range(4)]
    assert sum(s * g.loss(b) for g, s in each) == pytest.approx(train.loss(b))
    assert of_batches(train, [0, 1, 2, 3])[0].loss(b) == pytest.approx(train.loss(b))
    assert of_batches(train, [0])[0].loss(b) != pytest.approx(train.loss(b))
    with pytest.raises(CurvwatchError, match="no batches to draw from"):
        path(surface(hill), A, B, kind="chain", batches_per_step=1, **quiet)


# the result


@pytest.mark.parametrize("kind", ["line", "bezier", "chain", "band"])
def test_a_path_is_saved_and_comes_back(kind, tmp_path):
    options = {} if kind == "line" else {"steps": 3}
    found = path(surface(tilted), A, B, kind=kind, **options, **quiet)
    file = found.save(tmp_path / "deep" / "path")
    assert file == tmp_path / "deep" / "path.npz"
    again = Path.load(file)
    assert_same(vars(again), vars(found), "path")
    for t, loss in zip(found.t, found.losses, strict=True):
        assert tilted(again.at(float(t))) == pytest.approx(loss, abs=1e-12)
    np.testing.assert_array_equal(again.at(0.0), A)
    with pytest.raises(ValueError, match=r"t=1\.5"):
        again.at(1.5)
    (tmp_path / "cut.npz").write_bytes(file.read_bytes()[:100])
    with pytest.raises(CurvwatchError, match="no 'path' that curvwatch saved"):
        Path.load(tmp_path / "cut.npz")


def test_figures():
    line = path(surface(tilted), A, B, **quiet)
    holed = path(surface(lambda w: w.sum() / (w[0] != 0)), A, B, **quiet)
    (axes,) = plot_paths([line, holed], labels=["$ line", "b"]).axes
    texts = [t.get_text() for t in axes.get_legend().get_texts()]
    assert texts[0].startswith(r"\$ line: barrier 0.7")
    assert texts[1:] == ["b: barrier inf", "not finite"]
    assert line.plot().axes[0].get_ylabel() == "loss"
    with pytest.raises(ValueError, match="2 labels for 1 paths"):
        plot_paths([line], labels=["a", "b"])
    with pytest.raises(ValueError, match="give one at least"):
        plot_paths([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "spline"}, "kind='spline': one of 'line', 'bezier', 'chain', 'band'"),
        ({"bends": 2}, "bends=2: kind='line' has no options"),
        ({"kind": "band", "bends": 2}, "kind='band' has the options steps, pivots"),
        ({"kind": "chain", "bends": 0}, "bends=0: a whole number of 1 or more"),
        ({"kind": "chain", "optimizer": "lion"}, "optimizer='lion': one of 'adam', 'sgd'"),
        ({"kind": "band", "spring": -1.0}, "spring=-1.0: a positive number"),
        ({"points": 2}, "points=2: a whole number of 3 or more"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        path(surface(hill), A, B, **options, **quiet)


def test_a_module_or_an_objective_is_taken_as_a_surface_is():
    net = images_net()
    data, ends = [images()], [{n: p + 0.1 for n, p in net.state_dict().items()}, net]
    loss_fn = lambda m, b: F.cross_entropy(m(b[0]), b[1])  # noqa: E731  (one line, used twice)
    twin = path(surface_of(net, data, loss_fn=loss_fn, mode="train"), *ends, points=5, **quiet)
    found = path(net, *ends, batches=data, loss_fn=loss_fn, mode="train", points=5, **quiet)
    assert np.array_equal(found.losses, twin.losses)
    objective = Objective.of_batches(net, lambda b: loss_fn(net, b), data, train=True)
    assert path(objective, *ends, points=5, **quiet).losses == pytest.approx(twin.losses)
    line = interpolate(net, *ends, batches=data, loss_fn=loss_fn, mode="train", points=5, **quiet)
    assert line.losses == pytest.approx(twin.losses[np.isin(twin.t, line.alphas)])
    with pytest.raises(ValueError, match="a surface has its loss already"):
        path(surface(hill), A, B, batches=data)


def images_net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def test_what_is_no_subject_is_told_and_ends_must_differ():
    with pytest.raises(ValueError, match=r"a LightningModule, another nn\.Module with loss_fn, an"):
        path(3, A, B)
    with pytest.raises(ValueError, match="both ends are the same"):
        path(surface(hill), A, A, kind="chain")
    assert path(surface(hill), A, A, **quiet).barrier == 0.0
    with pytest.raises(CurvwatchError, match="a flat vector of shape"):
        path(surface(hill), A, f64(1, 2, 3))
    assert isinstance(surface(hill), FunctionSurface)
