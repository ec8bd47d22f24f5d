"""Cadences on the grid, and how several share what may be spent."""

from __future__ import annotations

import itertools

import pytest

from curvwatch.training.schedule.grid import (
    divide,
    finer,
    fits,
    grid_below,
    is_on_grid,
    on_grid,
    per_step,
)
from tests.support.simulated import simulated


def test_the_grid_is_one_two_five():
    assert [on_grid(x) for x in (0.1, 1, 1.5, 2, 3, 5, 6, 10, 11, 21, 499, 501)] == [
        *(1, 1, 2, 2, 5, 5, 10, 10, 20, 50, 500, 1000)
    ]
    assert [finer(n) for n in (1, 2, 5, 10, 20, 50, 100, 1000, 5000)] == [
        *(1, 1, 2, 5, 10, 20, 50, 500, 2000)
    ]
    assert [grid_below(x) for x in (0.1, 1, 1.9, 2, 4.9, 5, 99, 100, 101)] == [
        *(1, 1, 1, 2, 2, 5, 50, 100, 100)
    ]
    assert [n for n in range(101) if is_on_grid(n)] == [1, 2, 5, 10, 20, 50, 100]


COSTS = [
    {"landscape": a, "step": b}
    for a, b in itertools.product((0.001, 0.03, 0.7, 1.0, 6.4, 90.0), repeat=2)
]


@pytest.mark.parametrize("costs", COSTS)
def test_cadences_fit_and_none_of_them_could_be_finer(costs):
    cadences = divide(costs, 0.9)
    assert per_step(costs, cadences) <= 0.9
    for kind, n in cadences.items():
        closer = {**cadences, kind: finer(n)}
        assert n == 1 or per_step(costs, closer) > 0.9
    assert fits(costs, cadences, 0.9, tolerance=0.0)
    # an equal part is there for each
    assert all(n <= on_grid(2 * costs[kind] / 0.9) for kind, n in cadences.items())


def test_cadences_are_kept_until_they_cost_too_much_or_can_be_finer():
    costs, cadences = {"landscape": 1.0}, {"landscape": 20}
    assert fits(costs, cadences, 0.05, tolerance=0.05)
    assert fits(costs, cadences, 0.0477, tolerance=0.05)
    assert not fits(costs, cadences, 0.0475, tolerance=0.05)
    assert fits(costs, cadences, 0.099, tolerance=0.05)
    assert not fits(costs, cadences, 0.101, tolerance=0.05)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_a_fixed_cadence_is_kept_whatever_it_costs(n):
    run = simulated(
        30, step=lambda t: 1e-6, landscape=lambda t: 1e6, geometry=lambda t: 1e6, every_n_steps=n
    )
    assert run.read == {"landscape": list(range(0, 30, n)), "step": list(range(0, 30, n))}
