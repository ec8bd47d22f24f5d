"""Fixed and budgeted cadences, on a clock of their own."""

from __future__ import annotations

import itertools

import pytest

from curvwatch.cadence import Cadence, on_grid
from curvwatch.measures import Sharpness
from curvwatch.schedule import Schedule


def test_the_grid_is_one_two_five():
    assert [on_grid(x) for x in (0.1, 1, 1.5, 2, 3, 5, 6, 10, 11, 21, 499, 501)] == [
        *(1, 1, 2, 2, 5, 5, 10, 10, 20, 50, 500, 1000)
    ]


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_a_fixed_cadence_is_kept_whatever_it_costs(n):
    cadence = Cadence(every_n_steps=n)
    due = []
    for step in range(30):
        if cadence.due(step):
            due.append(step)
            cadence.reading_took(1e6)
        cadence.step_took(1e-6)
    assert due == list(range(0, 30, n))


def simulate(cadence, steps, *, step_seconds, reading_seconds):
    """Steps with a reading, and the share of time that readings took."""
    due, spent, total = [], 0.0, 0.0
    for step in range(steps):
        seconds = step_seconds(step)
        if cadence.due(step):
            due.append(step)
            spent += reading_seconds
            total += reading_seconds
            cadence.reading_took(reading_seconds)
        total += seconds
        cadence.step_took(seconds)
    return due, spent / total


@pytest.mark.parametrize("reading_seconds", [0.5, 3.0, 12.0, 40.0])
def test_a_budget_is_kept(reading_seconds):
    due, share = simulate(
        Cadence(budget=0.05), 20_000, step_seconds=lambda s: 1.0, reading_seconds=reading_seconds
    )
    assert 0.4 * 0.05 <= share <= 1.1 * 0.05
    assert {0, 10, 20, 50, 100} <= set(due)  # short runs show a curve
    gaps = {b - a for a, b in zip(due[-5:], due[-4:], strict=False)}
    assert len(gaps) == 1
    assert on_grid(gaps.pop()) in (10, 20, 50, 100, 200, 500, 1000)


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_a_budget_is_kept_when_steps_become_slower_or_faster(factor):
    _, share = simulate(
        Cadence(budget=0.05),
        40_000,
        step_seconds=lambda s: 1.0 if s < 20_000 else factor,
        reading_seconds=10.0,
    )
    assert 0.3 * 0.05 <= share <= 1.1 * 0.05


def test_a_resumed_cadence_goes_on_alike():
    one, other = Cadence(budget=0.1), Cadence(budget=0.1)
    simulate(one, 1000, step_seconds=lambda s: 1.0, reading_seconds=7.0)
    other.load_state_dict(one.state_dict())
    assert [one.due(s) for s in range(1000, 3000)] == [other.due(s) for s in range(1000, 3000)]
    assert one.every_n_steps == other.every_n_steps


class TwoProcesses:
    """A run whose processes agree on a reading of 20 ms and steps of 1.01 ms."""

    alone = False

    def agreed(self, value: float) -> float:
        return 0.02 if value > 0.01 else 0.00101


def test_processes_with_clocks_of_their_own_read_at_the_same_steps(monkeypatch):
    due = []
    for local in (0.0010, 0.0013):  # alone they would be paid for the next reading at other steps
        schedule = Schedule([Sharpness()], every_n_steps=None, budget=0.05)
        monkeypatch.setattr(schedule.clock, "lap", lambda lap=local: lap)
        monkeypatch.setattr("curvwatch.schedule.time.perf_counter", itertools.count(step=0.02).__next__)
        steps = []
        for step in range(3000):
            measures = schedule.due("landscape", step)
            if measures:
                steps.append(step)
                with schedule.timed(TwoProcesses(), measures):
                    pass
            schedule.step_made(TwoProcesses())
        due.append(steps)
    assert due[0] == due[1]
    assert due[0][:5] == [0, 10, 20, 50, 100]
    assert len(due[0]) > 6
