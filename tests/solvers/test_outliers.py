"""Outliers above a bulk, on spectra that were made with a known number of them."""

from __future__ import annotations

import numpy as np
import pytest

from curvwatch.solvers import count_outliers

# how many of a random bulk may stand out by themselves
STRAY = {"line": 0, "wishart": 1, "lognormal": 2}
RANDOM = np.random.default_rng(0)


def bulk(kind: str, count: int) -> np.ndarray:
    """The `count` largest of a bulk of 2000."""
    if kind == "line":
        return np.exp(-0.05 * np.arange(count))
    if kind == "wishart":
        a = RANDOM.normal(size=(200, 400))
        return np.linalg.eigvalsh(a @ a.T / 400)[::-1][:count]
    return np.sort(np.exp(0.7 * RANDOM.normal(size=2000)))[::-1][:count]


@pytest.mark.parametrize("kind", ["line", "wishart", "lognormal"])
@pytest.mark.parametrize("planted", [2, 5, 10])
def test_planted_outliers_are_counted_within_the_error(kind: str, planted: int) -> None:
    for _ in range(5):
        low = bulk(kind, 30 - planted)
        high = np.sort(low[0] * RANDOM.uniform(4, 20, size=planted))[::-1]
        found = count_outliers(np.concatenate([high, low]))
        assert found is not None
        assert abs(found.count - planted) <= found.error + STRAY[kind]
        assert found.error <= planted


@pytest.mark.parametrize("kind", ["line", "wishart"])
def test_a_bulk_alone_has_none(kind: str) -> None:
    for _ in range(5):
        found = count_outliers(bulk(kind, 30))
        assert found is not None
        assert found.count == 0


def test_scale_does_not_matter() -> None:
    values = np.concatenate([[40.0, 30, 25, 11], bulk("wishart", 20)])
    assert count_outliers(values) == count_outliers(1e-9 * values)


def test_a_bulk_at_zero_leaves_all_others() -> None:
    values = np.array([5.0, 4, 1, 0.2, 1e-12, 0, -1e-12, -1e-11, -0.1])
    found = count_outliers(values, 1e-10)
    assert found is not None
    assert (found.count, found.error) == (4, 0.0)


def test_where_nothing_can_be_told_it_is_none() -> None:
    assert count_outliers(np.array([3.0, 2, 1])) is None
    assert count_outliers(-np.arange(1.0, 20)) is None


def test_an_unclear_break_has_a_large_error() -> None:
    # steeper and steeper towards the first: a curve, no corner
    found = count_outliers(np.exp(4 / np.sqrt(np.arange(1.0, 31))))
    clear = count_outliers(np.concatenate([[90.0, 80, 70, 65, 50], np.exp(-0.05 * np.arange(25))]))
    assert found is not None
    assert clear is not None
    assert clear.count == 5
    assert clear.error == 0.0
    assert found.error >= 1


def test_the_error_has_that_of_a_look_at_fewer() -> None:
    moved = 0
    for _ in range(20):
        values = np.sort(np.exp(1.5 * RANDOM.normal(size=500)))[::-1][:32]
        found, of_fewer = count_outliers(values), count_outliers(values[:24])
        assert found is not None
        assert of_fewer is not None
        moved += found.count != of_fewer.count
        assert found.error >= abs(found.count - of_fewer.count)
    assert moved > 5
