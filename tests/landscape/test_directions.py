"""Directions: lengths by filter and layer, right angles, and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from curvwatch import CurvwatchError
from curvwatch.landscape import (
    Directions,
    FunctionSurface,
    eigenvectors,
    given_directions,
    gradient_direction,
    plane_directions,
    principal_directions,
    random_directions,
    slice_1d,
    surface_of,
    update_directions,
)
from tests.landscape.surfaces import Bowl, bowl_objective, case_surface
from tests.support.cases import CASES


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("how", ["filter", "layer"])
@pytest.mark.parametrize("name", CASES)
def test_each_row_is_as_long_as_that_of_the_weights_and_both_are_orthogonal(name, how, dtype):
    torch.set_default_dtype(dtype)
    try:
        surface = case_surface(name)
    finally:
        torch.set_default_dtype(torch.float32)
    found = random_directions(surface, normalize=how, keep_1d=True)
    assert found.vectors.dtype == dtype
    a, b = found.vectors.double()
    assert abs(float(a @ b)) <= 1e-6 * float(a.norm() * b.norm())
    w = surface.start.double()
    for group in surface.groups:
        rows = group.shape[0] if how == "filter" and len(group.shape) > 1 else 1
        wanted = group.of(w).reshape(rows, -1)
        one, two = (group.of(v).reshape(rows, -1) for v in (a, b))
        lengths = wanted.norm(dim=1)
        torch.testing.assert_close(one.norm(dim=1), lengths, rtol=1e-6, atol=0)
        torch.testing.assert_close(two.norm(dim=1), lengths, rtol=1e-6, atol=0)
        assert bool(((one * two).sum(1).abs() <= 1e-6 * lengths**2).all())


def test_parameters_of_one_dimension_stay_unless_they_are_kept():
    surface = case_surface("cnn_batchnorm")
    still = [g for g in surface.groups if len(g.shape) < 2]
    found = random_directions(surface)
    assert all(not found.vectors[:, g.slice].any() for g in still)
    count = sum(g.size for g in still)
    assert found.notes[0].startswith("biases and other parameters of fewer than two dimensions, ")
    assert f" {count} of {surface.size} weights" in found.notes[0]
    kept = random_directions(surface, keep_1d=True)
    assert all(kept.vectors[0, g.slice].any() == surface.start[g.slice].any() for g in still)
    assert kept.notes == ()
    assert random_directions(surface, normalize="none").notes == ()


def test_a_row_of_one_entry_has_no_second_direction():
    surface = Bowl.drawn().surface()  # its `second` has two rows of two entries
    narrow = FunctionSurface(
        surface.function, surface.start, shapes=[("wide", (3, 3)), ("narrow", (4, 1))]
    )
    found = random_directions(narrow)
    torch.testing.assert_close(found.vectors[0, 9:].abs(), surface.start[9:].abs())
    assert not found.vectors[1, 9:].any()
    assert found.notes == ("the second direction leaves out 4 filters of a single weight",)
    assert float(found.vectors[0] @ found.vectors[1]) == pytest.approx(0.0, abs=1e-12)


def test_random_directions_come_from_a_generator_of_their_own():
    surface = Bowl.drawn().surface()
    before = torch.get_rng_state()
    a, again, b = (random_directions(surface, seed=s).vectors for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a, again)
    assert not torch.equal(a, b)
    # the raw draws are Gaussian: unit vectors over all weights keep their directions
    raw = torch.randn(1, 13, generator=torch.Generator().manual_seed(1), dtype=torch.float64)[0]
    unit = random_directions(surface, 1, normalize="none", seed=1)
    torch.testing.assert_close(unit.vectors[0], raw / raw.norm())
    assert unit.norms == pytest.approx([1.0])


def test_lengths_are_those_of_the_weights_looked_from():
    surface = Bowl.drawn().surface()
    near, far = random_directions(surface), random_directions(surface, at=3 * surface.start)
    torch.testing.assert_close(far.vectors, 3 * near.vectors)
    assert torch.equal(far.origin, 3 * surface.start)


@pytest.mark.parametrize("of", ["function", "objective"])
@pytest.mark.parametrize("ends", ["largest", "smallest", "both"])
def test_eigenvectors_are_those_of_the_dense_matrix(of, ends):
    bowl = Bowl.drawn()
    surface = bowl.surface() if of == "function" else surface_of(bowl_objective(bowl))
    values, vectors = np.linalg.eigh(bowl.A.numpy())
    wanted = {"largest": [-1, -2], "smallest": [0, 1], "both": [-1, 0]}[ends]
    found = eigenvectors(surface, ends=ends, rtol=1e-10)
    np.testing.assert_allclose(found.values, values[wanted], rtol=1e-9)
    for v, i, residual, value in zip(found.vectors, wanted, found.residuals, found.values, strict=True):
        assert abs(float(v @ torch.from_numpy(vectors[:, i]))) == pytest.approx(1.0, abs=1e-9)
        exact = float((bowl.A @ v - value * v).norm())
        assert residual == pytest.approx(exact, abs=1e-12)
        assert residual < 1e-8
    assert float(found.vectors[0] @ found.vectors[1]) == pytest.approx(0.0, abs=1e-12)
    assert found.notes == ()


def test_rough_eigenvectors_of_both_ends_are_orthogonal_and_have_the_residuals_they_say():
    bowl = Bowl.drawn()
    found = eigenvectors(bowl.surface(), ends="both", rtol=0.3)
    a, b = found.vectors
    assert float(a @ b) == pytest.approx(0.0, abs=1e-12)
    for v, value, residual in zip((a, b), found.values, found.residuals, strict=True):
        assert value == pytest.approx(float(v @ bowl.A @ v))
        assert residual == pytest.approx(float((bowl.A @ v - value * v).norm()))
        assert residual > 1e-3
        assert np.abs(np.linalg.eigvalsh(bowl.A.numpy()) - value).min() <= residual


def test_eigenvectors_that_are_not_there_yet_are_told():
    found = eigenvectors(case_surface("mlp_mse"), 1, max_products=3)
    assert found.notes == ("Lanczos did not converge in 3 products",)
    assert found.residuals[0] > 1e-3 * found.values[0]


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_that_statistics_of_batch_norm_are_held_fixed_is_told_of_all_derivatives(mode):
    surface = case_surface("cnn_batchnorm", mode=mode)
    other = 1.1 * surface.start
    for word, found in (
        ("Hessian", eigenvectors(surface, 1, rtol=0.1)),
        ("gradient", gradient_direction(surface)),
        ("gradient", gradient_direction(surface, 2, normalize="filter")),
        ("gradient", update_directions(surface, surface.start, other, 2)),
        (None, update_directions(surface, surface.start, other)),
        (None, random_directions(surface)),
    ):
        note = f"the {word} is that with batch norm's statistics held fixed"
        told = any("statistics" in n for n in found.notes)
        assert told == (note in found.notes) == (mode == "eval" and word is not None)


def test_the_gradient_points_uphill_and_its_companion_across():
    bowl = Bowl.drawn()
    g = bowl.A @ bowl.start + bowl.b
    found = gradient_direction(bowl.surface(), 2)
    torch.testing.assert_close(found.vectors[0], g / g.norm())
    torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(2, dtype=torch.float64))
    minimum = torch.linalg.solve(bowl.A, -bowl.b)
    flat = FunctionSurface(lambda w: (w**2).sum() + 0 * bowl(w), torch.zeros(13, dtype=torch.float64))
    with pytest.raises(CurvwatchError, match=r"the gradient has the length 0\.0"):
        gradient_direction(flat)
    assert gradient_direction(bowl.surface(), at=minimum + 1e-3).norms == pytest.approx([1.0])


def test_given_vectors_stay_as_they_are():
    surface = Bowl.drawn().surface()
    d, e = torch.randn(2, 13, dtype=torch.float64)
    assert torch.equal(given_directions(surface, d).vectors[0], d)
    pair = given_directions(surface, [d, e], names=["step", "other"])
    cosine = float(d @ e / d.norm() / e.norm())
    assert pair.notes == (f"the two directions are not orthogonal: their cosine is {cosine:.3g}",)
    w = surface.start + 2 * d - 3 * e
    coordinates, off = pair.coordinates(w)
    assert coordinates == pytest.approx([2.0, -3.0])
    assert off == pytest.approx(0.0, abs=1e-12)
    torch.testing.assert_close(pair.at(2.0, -3.0), w)
    scaled = given_directions(surface, d, normalize="filter")
    first = scaled.vectors[0, :6].view(2, 3)
    torch.testing.assert_close(first.norm(dim=1), surface.start[:6].view(2, 3).norm(dim=1))
    assert abs(float(first[0] @ d[:3]) / float(first[0].norm() * d[:3].norm())) == pytest.approx(1.0)


def test_a_plane_has_its_checkpoints_where_it_says():
    surface = Bowl.drawn().surface()
    a, b, c = torch.randn(3, 13, dtype=torch.float64)
    found = plane_directions(surface, [a, b, c], names=["a", "b", "c"])
    torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(2, dtype=torch.float64))
    assert torch.equal(found.at(0.0, 0.0), a)
    for w in (a, b, c):
        coordinates, off = found.coordinates(w)
        assert off == pytest.approx(0.0, abs=1e-12)
        torch.testing.assert_close(found.at(*coordinates), w)
    assert found.coordinates(b)[0] == pytest.approx([float((b - a).norm()), 0.0], abs=1e-12)
    assert found.coordinates(c)[0][1] > 0


def test_an_update_goes_from_one_checkpoint_to_the_other_with_the_gradient_across():
    bowl = Bowl.drawn()
    surface = bowl.surface()
    a, b = torch.randn(2, 13, dtype=torch.float64)
    line = update_directions(surface, a, b, names=["before", "after"])
    assert line.names == ("update from before to after",)
    assert torch.equal(line.at(0.0), a)
    torch.testing.assert_close(line.at(1.0), b)
    found = update_directions(surface, a, b, 2)
    d, across = found.vectors
    torch.testing.assert_close(d, b - a)
    assert found.norms == pytest.approx([float((b - a).norm())] * 2)
    assert float(d @ across) == pytest.approx(0.0, abs=1e-12)
    # the gradient lies in the plane, uphill
    g = bowl.A @ a + bowl.b
    assert float(g @ across) > 0
    in_plane = (g @ d) / (d @ d) * d + (g @ across) / (across @ across) * across
    torch.testing.assert_close(in_plane, g)
    sliced = slice_1d(surface, line, distance=1.0, points=3, progress=False)
    assert sliced.losses[1:] == pytest.approx([float(bowl(a)), float(bowl(b))])
    with pytest.raises(CurvwatchError, match="there is no update"):
        update_directions(surface, a, a)
    flat = FunctionSurface(lambda w: w[0] + 0 * bowl(w), torch.zeros(13, dtype=torch.float64))
    along = torch.zeros(13, dtype=torch.float64)
    along[0] = 2.0
    with pytest.raises(CurvwatchError, match="the gradient is along the update"):
        update_directions(flat, 0 * along, along, 2)


def test_principal_directions_are_those_of_scikit_learn():
    surface = Bowl.drawn().surface()
    points = torch.randn(6, 13, dtype=torch.float64).cumsum(0)
    found = principal_directions(surface, list(points))
    twin = PCA(2, svd_solver="full").fit((points - points[-1]).numpy())
    np.testing.assert_allclose(found.explained, twin.explained_variance_ratio_, rtol=1e-9)
    for v, w in zip(found.vectors, twin.components_, strict=True):
        assert abs(float(v @ torch.from_numpy(w))) == pytest.approx(1.0, abs=1e-9)
    assert torch.equal(found.origin, points[-1])
    centred = (points - points[-1]).numpy()
    for w, expected in zip(points, centred, strict=True):
        coordinates, off = found.coordinates(w)
        wanted = found.vectors.numpy() @ expected
        np.testing.assert_allclose(coordinates, wanted, atol=1e-12)
        assert off == pytest.approx(np.linalg.norm(expected - wanted @ found.vectors.numpy()), abs=1e-9)
    first, _ = found.coordinates(points[0])
    assert (first < 0).all()  # from the left, below


@pytest.mark.parametrize("known", ["step", "global_step"])
@pytest.mark.parametrize("kept", ["file", "mapping"])
def test_checkpoints_that_are_far_from_even_in_steps_are_told(tmp_path, known, kept):
    surface = Bowl.drawn().surface()
    walk = torch.randn(400, 13, dtype=torch.float64).cumsum(0)

    def found(steps):
        each = []
        for step in steps:
            tensors = dict(zip(("first", "bias", "second"), walk[step].split([6, 3, 4]), strict=True))
            state = {g.name: tensors[g.name].reshape(g.shape).clone() for g in surface.groups}
            content = {known: step, "state_dict": state}
            torch.save(content, tmp_path / f"{step}.pt")
            each.append(tmp_path / f"{step}.pt" if kept == "file" else content)
        return principal_directions(surface, each)

    assert found(range(0, 400, 20)).notes == ()
    assert found([0, 20, 40, 60, 80, 100, 105]).notes == ()  # the end comes when it comes
    assert found([0, 64, 128, 192, 256, 320, 336, 352, 368, 384]).notes == ()
    log = sorted({0, *(round(10 ** (k / 10)) for k in range(27))})
    (note,) = found(log).notes
    assert "not evenly spaced: they are 6 steps apart in the median" in note
    assert f", {log[-1] / (len(log) - 1):.3g} in the mean" in note


def test_checkpoints_without_steps_are_told_where_their_distances_are_far_from_even():
    surface = Bowl.drawn().surface()
    walk = torch.randn(400, 13, dtype=torch.float64).cumsum(0)
    assert principal_directions(surface, list(walk[::20])).notes == ()
    steps = torch.eye(13, dtype=torch.float64)[:12] * 2.0 ** -torch.arange(12)[:, None]
    (note,) = principal_directions(surface, list(steps.cumsum(0))).notes
    gaps = 2.0 ** -np.arange(1, 12)
    assert f"they are {np.median(gaps):.3g} apart in the median, {gaps.mean():.3g} in the mean" in note


BOWL = Bowl.drawn().surface()
LINE = [k * torch.ones(13, dtype=torch.float64) for k in (0.0, 1.0, 3.0)]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: random_directions(BOWL, 3), "3 directions: one, or two"),
        (lambda: random_directions(BOWL, normalize="rows"), "normalize='rows'"),
        (lambda: random_directions(FunctionSurface(torch.sum, torch.ones(4))), "no weight would move"),
        (lambda: eigenvectors(BOWL, ends="middle"), "ends='middle'"),
        (lambda: eigenvectors(BOWL, 1, ends="both"), "count=2 is needed"),
        (lambda: eigenvectors(FunctionSurface(torch.sum, torch.ones(1))), "1 weights have no 2"),
        (
            lambda: eigenvectors(FunctionSurface(lambda w: (w**2).sum() * torch.nan, torch.ones(3))),
            "not finite",
        ),
        (lambda: given_directions(BOWL, torch.zeros(13)), "length 0: each has to be"),
        (lambda: given_directions(BOWL, [LINE[1], 2 * LINE[1]]), "collinear"),
        (lambda: given_directions(BOWL, LINE[1], names=["a", "b"]), "one for each of 1"),
        (lambda: given_directions(BOWL, torch.ones(3)), r"shape \(3,\)"),
        (lambda: plane_directions(BOWL, LINE[:2]), "three checkpoints, and 2"),
        (lambda: plane_directions(BOWL, LINE), "lie on a line"),
        (lambda: plane_directions(BOWL, [LINE[0], LINE[0], LINE[1]]), "have the same weights"),
        (lambda: plane_directions(BOWL, [LINE[0], LINE[1], LINE[2] * torch.inf]), "not finite"),
        (lambda: plane_directions(BOWL, LINE, names=["a"]), "one for each of 3"),
        (lambda: principal_directions(BOWL, LINE), "lie on a line"),
        (lambda: principal_directions(BOWL, LINE[:2]), "three checkpoints at least, and 2"),
    ],
)
def test_what_is_no_direction_is_told(make, says):
    with pytest.raises((ValueError, CurvwatchError), match=says):
        make()


def test_directions_are_a_plain_record():
    found = random_directions(BOWL)
    assert isinstance(found, Directions)
    assert found.description == "random (Gaussian, seed 0), filter-normalised"
    assert torch.equal(found.at(0.0, 0.0), BOWL.start)
