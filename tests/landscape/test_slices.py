"""Slices of a quadratic in closed form; planes through checkpoints; files."""

from __future__ import annotations

import json
import math
from dataclasses import astuple

import numpy as np
import pytest
import torch

from curvwatch import CurvwatchError
from curvwatch.landscape import (
    FunctionSurface,
    Slice1D,
    Slice2D,
    eigenvectors,
    given_directions,
    gradient_direction,
    load_slice,
    plane,
    random_directions,
    slice_1d,
    slice_2d,
    surface_of,
    trajectory,
    update_directions,
    weights_of,
)
from curvwatch.landscape.slices.slices import _covering
from tests.landscape.surfaces import Bowl, bowl_objective, case_surface
from tests.support.cases import CASES, dense

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def surfaces():
    bowl = Bowl.drawn()
    return {"function": bowl.surface(), "objective": surface_of(bowl_objective(bowl))}


def parabola(bowl, w, d, alpha):
    """f(w + alpha d) by its Taylor series, of which no term is missing."""
    return (
        float(bowl(w)) + alpha * float((bowl.A @ w + bowl.b) @ d) + alpha**2 * float(d @ bowl.A @ d) / 2
    )


@pytest.mark.parametrize("of", ["function", "objective"])
@pytest.mark.parametrize("along", ["random", "hessian", "gradient", "given"])
def test_a_line_is_its_parabola(of, along):
    bowl, surface = Bowl.drawn(), surfaces()[of]
    options = {"seed": 4, "distance": 1.5, "points": 7}
    d = {
        "random": random_directions(surface, 1, seed=4),
        "hessian": eigenvectors(surface, 1, seed=4),
        "gradient": gradient_direction(surface),
        "given": given_directions(surface, torch.arange(13.0)),
    }[along]
    found = slice_1d(surface, torch.arange(13.0) if along == "given" else along, **options)
    assert found.alphas.tolist() == [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]
    expected = [parabola(bowl, bowl.start, d.vectors[0], a) for a in found.alphas]
    np.testing.assert_allclose(found.losses, expected, **EXACT)
    assert found.start_loss == surface.loss(surface.start)
    assert found.names == d.names
    assert found.norms == pytest.approx(d.vectors.norm(dim=1).numpy())
    assert found.forwards == 7


def test_along_an_eigenvector_the_second_derivative_is_the_eigenvalue():
    bowl = Bowl.drawn()
    found = slice_1d(bowl.surface(), "hessian", ends="smallest", points=3, distance=0.5)
    left, middle, right = found.losses
    assert (left - 2 * middle + right) / 0.25 == pytest.approx(found.values[0], rel=1e-7)
    assert found.values[0] == pytest.approx(float(torch.linalg.eigvalsh(bowl.A)[0]), rel=1e-6)
    assert found.values[0] < 0
    assert found.residuals[0] <= 1e-3 * abs(found.values[0])
    assert found.products > 0
    assert found.gradients == 1


@pytest.mark.parametrize("of", ["function", "objective"])
@pytest.mark.parametrize("along", ["random", "hessian", "gradient", "given"])
def test_a_plane_is_its_quadratic(of, along):
    bowl, surface = Bowl.drawn(), surfaces()[of]
    given = [torch.arange(13.0), torch.ones(13)]
    d = {
        "random": random_directions(surface),
        "hessian": eigenvectors(surface, ends="both"),
        "gradient": gradient_direction(surface, 2),
        "given": given_directions(surface, given),
    }[along]
    found = slice_2d(surface, given if along == "given" else along, points=5, ends="both")
    a, b = d.vectors
    expected = [[parabola(bowl, bowl.start + x * a, b, y) for y in found.betas] for x in found.alphas]
    np.testing.assert_allclose(found.losses, expected, **EXACT)
    assert found.losses.shape == (5, 5)
    assert found.start_loss == surface.loss(surface.start)


@pytest.mark.parametrize("size", [12, 100])
@pytest.mark.parametrize("ends", ["largest", "smallest"])
def test_along_an_eigenvector_the_slice_is_that_of_the_exact_one(ends, size):
    generator = torch.Generator().manual_seed(size)
    A = torch.randn(size, size, generator=generator, dtype=torch.float64)
    A = (A + A.T) / 2
    b, w = torch.randn(2, size, generator=generator, dtype=torch.float64)
    surface = FunctionSurface(lambda w: w @ A @ w / 2 + b @ w + 3, w)
    values, vectors = torch.linalg.eigh(A)

    def exact(i, alphas, like):
        """The closed form along the exact eigenvector, whose sign is free."""
        lines = [
            float(w @ A @ w / 2 + b @ w + 3)
            + alphas * float((A @ w + b) @ v)
            + alphas**2 * float(values[i]) / 2
            for v in (vectors[:, i], -vectors[:, i])
        ]
        return min(lines, key=lambda line: np.abs(line - like).max())

    i, j = (-1, -2) if ends == "largest" else (0, 1)
    found = slice_1d(surface, "hessian", ends=ends, points=9)
    np.testing.assert_allclose(found.losses, exact(i, found.alphas, found.losses), atol=1e-6, rtol=0)
    assert found.notes == ()
    assert found.products <= size + 1
    plane = slice_2d(surface, "hessian", ends=ends, points=3)
    for k, line, alphas in ((i, plane.losses[:, 1], plane.alphas), (j, plane.losses[1], plane.betas)):
        np.testing.assert_allclose(line, exact(k, alphas, line), atol=1e-6, rtol=0)
    rough = slice_1d(surface, "hessian", ends=ends, points=9, rtol=0.1)
    assert rough.products < found.products
    assert 1e-9 < rough.residuals[0] / abs(rough.values[0]) < 0.11


def test_how_well_eigenvectors_are_known_can_be_said():
    surface = case_surface("mlp_mse")
    assert surface.size > 100
    usual, tight = (slice_1d(surface, "hessian", points=3, rtol=r) for r in (None, 1e-5))
    ratios = [found.residuals[0] / found.values[0] for found in (usual, tight)]
    assert 1e-5 < ratios[0] < 1.1e-3
    assert ratios[1] < 2e-5
    assert tight.notes == ()


@pytest.mark.parametrize("of", ["function", "objective"])
def test_the_cost_of_directions_that_were_made_before_is_that_of_the_slice(of):
    surface = surfaces()[of]
    before, after = torch.randn(2, 13, dtype=torch.float64)
    for make, dims in (
        (lambda k: gradient_direction(surface, k), (1, 2)),
        (lambda k: eigenvectors(surface, k), (1, 2)),
        (lambda k: update_directions(surface, before, after, k), (2,)),
    ):
        for k in dims:
            then = astuple(surface.counts)
            found = (slice_1d, slice_2d)[k - 1](surface, make(k), points=3)
            spent = np.subtract(astuple(surface.counts), then).tolist()
            assert [found.forwards, found.gradients, found.products] == spent
            assert found.gradients > 0
            assert (found.products > 0) == (found.values is not None)
    assert slice_2d(surface, random_directions(surface), points=3).gradients == 0


def test_a_line_covers_the_points_that_its_direction_has():
    surface = Bowl.drawn().surface()
    update = update_directions(surface, *torch.randn(2, 13, dtype=torch.float64))
    found = slice_1d(surface, update)
    assert found.alphas[[0, -1]] == pytest.approx([-0.25, 1.25])
    assert 1.0 in found.alphas.round(12)
    assert slice_1d(surface, update, distance=2.0, points=3).alphas.tolist() == [-2.0, 0.0, 2.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_plane_whose_points_lie_on_one_axis_is_square(dtype):
    start, before, after = torch.randn(3, 13, generator=torch.Generator().manual_seed(0))
    surface = FunctionSurface(lambda w: (w**4).sum(), start.to(dtype))
    found = slice_2d(surface, update_directions(surface, before, 1e3 * after, 2), points=7)
    assert found.alphas == pytest.approx([-0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25], abs=1e-6)
    assert found.betas == pytest.approx([-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75], abs=1e-6)
    # the plane of points that are nearly on a line is narrow, as they are
    bent = plane(surface, [0 * after, after, 2 * after + 1e-3 * before], points=7)
    assert np.ptp(bent.betas) < 1e-2 * np.ptp(bent.alphas)


def test_a_slice_goes_through_other_weights_where_asked():
    bowl = Bowl.drawn()
    w = torch.ones(13, dtype=torch.float64)
    found = slice_1d(bowl.surface(), "gradient", at=w, points=3)
    g = bowl.A @ w + bowl.b
    expected = [parabola(bowl, w, g / g.norm(), a) for a in found.alphas]
    np.testing.assert_allclose(found.losses, expected, **EXACT)


@pytest.mark.parametrize("name", CASES)
def test_the_slice_of_a_network_is_that_of_the_dense_twin(name):
    torch.set_default_dtype(torch.float64)
    try:
        case = CASES[name]
        model = case.model()
        batch = case.batch(5)
        surface = surface_of(
            model, [batch], loss_fn=lambda m, b: case.loss(m(b[0]), b[1]), mode="train"
        )
        directions = random_directions(surface)
        found = slice_2d(surface, directions, points=3, distance=0.5)
        assert found.start_loss == dense(case, model, [batch], surface.start).loss
        for i, j in ((0, 0), (2, 1), (1, 2)):
            w = directions.at(found.alphas[i], found.betas[j])
            assert found.losses[i, j] == pytest.approx(dense(case, model, [batch], w).loss, rel=1e-9)
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_plane_of_three_checkpoints_passes_through_them_with_their_losses():
    surface = case_surface("cnn_batchnorm")
    states = []
    for seed in range(3):
        torch.manual_seed(seed)
        states.append(CASES["cnn_batchnorm"].model().state_dict())
    found = plane(surface, states, names=["a", "b", "c"], points=9)
    weights = [weights_of(s, surface) for s in states]
    own = [surface.loss(w) for w in weights]
    assert found.point_losses.tolist() == own
    assert found.point_names == ("a", "b", "c")
    assert found.start_loss == own[0]
    assert found.off_slice.max() < 1e-5
    from curvwatch.landscape import plane_directions

    directions = plane_directions(surface, states)
    on_plane = [surface.loss(directions.at(*c)) for c in found.coordinates]
    np.testing.assert_allclose(on_plane, own, rtol=1e-6)
    for column, axis in zip(found.coordinates.T, (found.alphas, found.betas), strict=True):
        assert axis[0] < column.min()
        assert axis[-1] > column.max()
        assert 0.0 in axis
    assert found.forwards == 2 * (81 + 3)  # statistics of batch norm are estimated for each


def test_a_trajectory_is_drawn_on_the_plane_of_most_variance():
    bowl = Bowl.drawn()
    points = torch.randn(5, 13, dtype=torch.float64).cumsum(0)
    found = trajectory(bowl.surface(), list(points), points=7)
    np.testing.assert_allclose(found.point_losses, [float(bowl(w)) for w in points], **EXACT)
    assert found.coordinates[-1].tolist() == [0.0, 0.0]
    assert found.start_loss == pytest.approx(float(bowl(points[-1])), rel=1e-12)
    assert found.path
    assert 0 < found.explained[1] < found.explained[0] < 1
    assert f"{found.explained[0]:.1%} of the variance" in found.names[0]
    # on the plane the loss is that of the nearest point
    assert found.off_slice[0] > 0.01
    assert found.off_slice[-1] == 0.0
    flat = torch.zeros(5, 13, dtype=torch.float64)
    flat[:, :2] = torch.randn(5, 2, dtype=torch.float64)
    inside = trajectory(bowl.surface(), list(flat), points=5)
    assert inside.explained.sum() == pytest.approx(1.0)
    assert inside.off_slice.max() < 1e-12


def test_the_range_covers_points_and_has_zero_in_it():
    generator = np.random.default_rng(0)
    for _ in range(200):
        values = generator.normal(size=4) * 10 ** generator.uniform(-3, 3) + generator.normal()
        points = int(generator.integers(3, 30))
        axis = _covering(values, points)
        assert len(axis) == points
        assert 0.0 in axis
        assert axis[0] < min(values.min(), 0)
        assert axis[-1] > max(values.max(), 0)
        np.testing.assert_allclose(np.diff(axis), axis[1] - axis[0])


def test_nan_and_inf_are_kept_as_they_are():
    def f(w):
        x = w[0]
        return x / 0 if x > 0.9 else x * math.nan if x < -0.9 else x

    line = slice_1d(FunctionSurface(f, torch.zeros(2)), torch.tensor([1.0, 0.0]), points=5)
    assert np.isnan(line.losses[0])
    assert line.losses[1:4].tolist() == [-0.5, 0.0, 0.5]
    assert line.losses[4] == np.inf
    assert line.losses.dtype == np.float64


def same(a, b):
    assert type(a) is type(b)
    for name, value in vars(a).items():
        other = getattr(b, name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, other)
            assert value.dtype == other.dtype
        else:
            assert value == other


def test_files_keep_everything(tmp_path):
    surface = Bowl.drawn().surface()
    points = list(torch.randn(4, 13, dtype=torch.float64))
    for i, one in enumerate(
        (
            slice_1d(surface, "hessian", points=3),
            slice_2d(surface, points=3),
            plane(surface, points[:3], points=3),
            trajectory(surface, points, points=3, names=["ä", "b$", "c", "d"]),
            Slice1D(
                names=("x",),
                norms=np.ones(1),
                description="",
                alphas=np.zeros(1),
                losses=np.array([np.nan]),
            ),
        )
    ):
        path = one.save(tmp_path / "folder" / f"slice{i}")  # it adds .npz
        assert path == tmp_path / "folder" / f"slice{i}.npz"
        same(one, load_slice(path))
        same(one, type(one).load(path))
        with np.load(path, allow_pickle=False) as file:
            assert json.loads(str(file["curvwatch"]))["version"] == 1
    with pytest.raises(CurvwatchError, match="holds a Slice1D and no Slice2D"):
        Slice2D.load(tmp_path / "folder" / "slice0.npz")


def test_files_that_are_no_slices_are_told(tmp_path):
    with pytest.raises(CurvwatchError, match="there is no file"):
        load_slice(tmp_path / "none.npz")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(CurvwatchError, match="is no 'slice' that curvwatch saved"):
        load_slice(tmp_path / "text")
    np.savez(tmp_path / "pickle.npz", curvwatch=np.array([{}], dtype=object))
    with pytest.raises(CurvwatchError, match="is no 'slice' that curvwatch saved"):
        load_slice(tmp_path / "pickle.npz")
    for about, told in (
        ({"version": 2, "what": "slice"}, "has version 2"),
        ({"version": 1, "what": "path"}, "is of another kind, 'path'"),
        ({"version": 1, "what": "slice", "kind": "3d"}, "is damaged: '3d'"),
        ({"version": 1, "what": "slice", "kind": "1d"}, "is damaged: .* missing"),
    ):
        head = {"values": {n: v for n, v in about.items() if n == "kind"}} | about
        np.savez(tmp_path / "other.npz", curvwatch=np.array(json.dumps(head)))
        with pytest.raises(CurvwatchError, match=told):
            load_slice(tmp_path / "other.npz")
    (tmp_path / "file").touch()
    with pytest.raises(CurvwatchError, match="the slice cannot be written to"):
        slice_1d(Bowl.drawn().surface(), points=3).save(tmp_path / "file" / "folder")


BOWL = Bowl.drawn().surface()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: slice_1d(BOWL, points=4), "points=4: an odd number is needed.*5 would do"),
        (lambda: slice_1d(BOWL, points=1), "points=1"),
        (lambda: slice_1d(BOWL, distance=0.0), "distance=0.0"),
        (lambda: slice_1d(BOWL, distance=math.inf), "distance=inf"),
        (lambda: slice_1d(BOWL, "up"), "directions='up'"),
        (lambda: slice_1d(BOWL, random_directions(BOWL)), "2 directions were given where 1"),
        (lambda: slice_1d(BOWL, "hessian", normalize="filter"), "turn an eigenvector"),
        (lambda: slice_1d(BOWL, "hessian", rtol=0.0), "rtol=0.0"),
        (lambda: slice_1d(BOWL, "gradient", rtol=1e-6), 'rtol=1e-06: it belongs to "hessian"'),
        (lambda: slice_2d(BOWL, eigenvectors(BOWL), rtol=1e-6), "makes such directions"),
        (lambda: slice_2d(BOWL, torch.ones(13)), "1 directions were given where 2"),
        (lambda: plane(BOWL, [BOWL.start] * 3, points=2), "have the same weights"),
        (lambda: slice_2d(BOWL).plot("bars"), "kind='bars'"),
    ],
)
def test_what_does_not_fit_is_told(make, says):
    with pytest.raises((ValueError, CurvwatchError), match=says):
        make()
