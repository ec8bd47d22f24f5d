"""The nudged elastic band finds saddles that are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from curvwatch import CurvwatchError
from curvwatch.landscape import path
from curvwatch.landscape.paths.band import _tangent
from tests.landscape.hills import (
    MB_ENDS,
    MB_HEIGHT,
    MB_SADDLE,
    bent_valley,
    f64,
    mueller_brown,
    surface,
)

A, B = f64(-1, 0), f64(1, 0)
band: dict[str, Any] = {"kind": "band", "progress": False}


@pytest.mark.parametrize(("steps", "inserts"), [(1, 3), (2, 2), (3, 1)])
def test_more_inserts_than_steps_are_no_error(steps, inserts):
    found = path(surface(bent_valley), A, B, steps=steps, inserts=inserts, **band)
    assert len(found.training) == steps
    assert math.isfinite(found.barrier)


def test_it_climbs_onto_the_saddle_of_a_bent_valley():
    f = surface(bent_valley)
    assert path(f, A, B, progress=False).barrier == pytest.approx(6.0)  # straight over the hill
    found = path(f, A, B, pivots=7, steps=300, tolerance=1e-8, **band)
    highest = found.controls[
        np.argmax([float(bent_valley(torch.from_numpy(c))) for c in found.controls])
    ]
    np.testing.assert_allclose(highest, (0, 1), atol=1e-6)
    assert found.barrier == pytest.approx(1.0, abs=1e-6)
    assert found.force <= 1e-8
    assert found.notes == ()
    assert found.gradients == 7 * len(found.training)


def test_it_finds_the_saddle_of_mueller_and_brown():
    f = surface(mueller_brown)
    found = path(f, *MB_ENDS, pivots=9, steps=300, tolerance=1e-5, **band)
    heights = [float(mueller_brown(torch.from_numpy(c))) for c in found.controls]
    highest = int(np.argmax(heights))
    np.testing.assert_allclose(found.controls[highest], MB_SADDLE, atol=1e-4)
    assert heights[highest] == pytest.approx(MB_HEIGHT, abs=1e-6)
    # the band is a polygon: between pivots it may be higher, not lower
    assert found.losses.max() >= MB_HEIGHT - 1e-9
    assert found.losses.max() == pytest.approx(MB_HEIGHT, abs=1e-3)


def test_without_climbing_the_top_lies_between_pivots():
    f = surface(bent_valley)
    found = path(f, A, B, pivots=6, steps=300, tolerance=1e-6, climb=False, **band)
    heights = [float(bent_valley(torch.from_numpy(c))) for c in found.controls]
    assert max(heights) < 0.99
    assert found.barrier == pytest.approx(1.0, abs=0.2)


def test_springs_keep_equal_distances():
    f = surface(lambda w: (w[1] - w[0] ** 2) ** 2)  # a bent valley that is level
    found = path(f, f64(-1, 1), f64(1, 1), pivots=9, steps=400, tolerance=1e-6, climb=False, **band)
    gaps = np.linalg.norm(np.diff(found.controls, axis=0), axis=1)
    np.testing.assert_allclose(gaps, gaps.mean(), rtol=1e-3)
    np.testing.assert_allclose(found.controls[:, 1], found.controls[:, 0] ** 2, atol=1e-5)
    np.testing.assert_allclose(found.knots, np.arange(11) / 10, atol=1e-3)


def test_pivots_are_put_where_the_loss_rises_between_two():
    f = surface(lambda w: torch.exp(-((w[0] - 0.2) ** 2) / 0.01) + w[1] ** 2)
    few = path(f, A, B, pivots=2, steps=40, climb=False, **band)
    more = path(f, A, B, pivots=2, steps=40, inserts=2, climb=False, **band)
    assert len(few.controls) == 4
    assert len(more.controls) > 4
    new = more.controls[1:-1, 0]
    assert np.abs(new - 0.2).min() < 0.1


def test_a_band_that_is_not_at_rest_says_so():
    found = path(surface(bent_valley), A, B, steps=3, **band)
    assert found.force > 0.01
    assert "not converged: after 3 steps" in found.notes[0]


def test_a_band_needs_finite_losses():
    holed = surface(lambda w: w.square().sum() * (1.0 if w[0].abs() > 0.1 else math.inf))
    with pytest.raises(CurvwatchError, match="the loss at pivot 4 of 7"):
        path(holed, A, B, **band)


def test_the_improved_tangent():
    """Henkelman & Jonsson (2000), equations 8 to 11."""
    back, forth = f64(1, 0), f64(0, 2)
    up, down = forth / 2, back
    for losses, tangent in {
        (0, 1, 2): up,
        (2, 1, 0): down,
        (0, 3, 2): 3 * forth + 1 * back,  # a top: the higher neighbour is the next
        (2, 3, 0): 1 * forth + 3 * back,
        (5, 1, 2): 1 * forth + 4 * back,  # a bottom
        (1, 1, 1): forth + back,
    }.items():
        made = _tangent(back, forth, *map(float, losses))
        torch.testing.assert_close(made, tangent / tangent.norm())
