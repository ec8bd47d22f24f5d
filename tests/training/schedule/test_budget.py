"""The share of the time that readings take, on simulated clocks."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from curvwatch.measures import Sharpness, StepGeometry
from curvwatch.training.schedule.budget import EARLY_STEPS, WARM_UP_SECONDS, WARM_UP_STEPS, finer
from curvwatch.training.schedule.schedule import Schedule
from tests.support.simulated import Process, simulated
from tests.support.studies import without

BUDGET = 0.05
# a share may be over the budget by so much, and under it where a finer cadence would fit
MOST, LEAST = 1.1, 0.5
JUMPS = (10.0, 0.1)


def warm(step: float, reading: float) -> int:
    """The step at which the warm-up is over: the first reading is repaid, it costs three."""
    return int(max(WARM_UP_STEPS, WARM_UP_SECONDS / step, 4 * reading / BUDGET / step)) + 1


def finer_fits(run: Process, step: float, reading: float, geometry: float) -> bool:
    """Whether one of the present cadences could be finer, with a tenth to spare."""
    assert run.schedule.budget is not None
    n = run.schedule.budget.every_n_steps
    for closer in ({**n, kind: finer(n[kind])} for kind in n if n[kind] > 1):
        cost = reading / closer["landscape"] + geometry / closer["step"]
        if cost / (step + cost) < 0.9 * BUDGET:
            return True
    return False


def jumping(step: float, reading: float, factor: float, **options: Any) -> tuple[Process, list[int]]:
    """A run whose steps take `factor` times as long in its middle, and the marks between its parts.

    Each part has time for 60 readings of the landscape; a first reading, and the first after each
    change, takes three times as long as others.
    """
    parts = [int(max(400, 72 * reading / BUDGET / s)) for s in (step, step * factor, step)]
    marks = [warm(step, 1.2 * reading)]
    for part in parts:
        marks.append(marks[-1] + part)
    noise = random.Random(0)
    told: dict[str, int] = {}

    def now(t: int) -> int:
        return sum(t >= mark for mark in marks[1:])

    def seconds_of(kind: str, seconds: float) -> Any:
        def cost(t: int) -> float:
            cold = told.get(kind) != now(t)
            told[kind] = now(t)
            return seconds * noise.lognormvariate(0, 0.2) * (3 if cold else 1)

        return cost

    def step_seconds(t: int) -> float:
        return step * noise.lognormvariate(0, 0.2) * (factor if now(t) == 1 else 1)

    run = simulated(
        marks[-1] + 1,
        step=step_seconds,
        landscape=seconds_of("landscape", reading),
        geometry=seconds_of("step", reading / 5),
        **options,
    )
    return run, marks


# what differs is the ratio, and how both compare with the warm-up; more steps would take too long
TIMES = [
    (step, reading)
    for step, reading in itertools.product((1e-4, 1e-3, 1e-2, 0.1, 1.0), repeat=2)
    if 1e-3 <= reading / step <= 3 or (step, reading) == (0.1, 1.0)
]


@pytest.mark.parametrize(
    ("step", "reading", "factor"),
    without(
        [(*times, factor) for times in TIMES if times[0] > 1e-4 for factor in JUMPS],
        leave=[(0.1, 1.0, 0.1)],  # many steps; with the other factor it stays
    ),
)
def test_the_budget_is_kept_and_used(step: float, reading: float, factor: float) -> None:
    run, marks = jumping(step, reading, factor)
    for t in range(marks[0], marks[-1], 97):  # of the whole run, at any time after the warm-up
        assert run.share(0, t) <= MOST * BUDGET
    for begin, end in itertools.pairwise(marks):
        assert run.share(begin, end) <= MOST * BUDGET
        # there is time for 60 at least, if nothing else is read
        assert sum(begin <= t < end for t in run.read["landscape"]) >= 10
    used = run.share(marks[-2], marks[-1])
    assert used >= LEAST * BUDGET or not finer_fits(run, step, reading, reading / 5)


# steps of a tenth of a millisecond have a warm-up of ten times as many
@pytest.mark.parametrize("step", without([1e-4, 1e-3, 1.0], leave=[1e-4]))
@pytest.mark.parametrize("cheaper", [0.01, 1.0, 30.0])
def test_what_one_stage_leaves_the_other_uses(step: float, cheaper: float) -> None:
    begin = warm(step, step)
    run = simulated(
        begin + 4000,
        step=lambda t: step,
        landscape=lambda t: step,
        geometry=lambda t: cheaper * step,
    )
    used = run.share(begin, begin + 3999)
    assert used <= MOST * BUDGET
    assert used >= LEAST * BUDGET or not finer_fits(run, step, step, cheaper * step)
    assert run.read["landscape"][-1] > begin + 2000  # none of them starves
    assert run.read["step"][-1] > begin + 2000


@pytest.mark.parametrize("reading", [1e-3, 0.01, 0.1, 1.0])
def test_readings_that_become_dearer_with_the_steps(reading: float) -> None:
    begin, slow = 30_000, 33_000

    def times(t: int) -> float:
        return 10.0 if begin <= t < slow else 1.0

    run = simulated(
        36_000,
        step=lambda t: 0.1 * times(t),
        landscape=lambda t: reading * times(t),
        geometry=lambda t: reading / 5 * times(t),
    )
    for t in range(1000, 36_000, 97):
        assert run.share(0, t) <= MOST * BUDGET
    assert run.share(begin, slow) <= MOST * BUDGET


def test_a_pause_does_not_change_the_cadence() -> None:
    """A validation of a second, and one of ten minutes, between steps of a millisecond."""
    pauses = {20_000: 1.0, 30_000: 600.0}
    run = simulated(
        50_000,
        step=lambda t: 1e-3,
        landscape=lambda t: 0.011,
        geometry=lambda t: 0.002,
        pause=lambda t: pauses.get(t, 0.0),
    )
    steps = [t for t in run.read["landscape"] if t > 15_000]
    assert {b - a for a, b in itertools.pairwise(steps)} == {500}
    for begin in range(15_000, 45_000, 1000):
        assert run.share(begin, begin + 4000) <= MOST * BUDGET


def test_time_that_goes_into_validation_is_time_of_the_run() -> None:
    """Two thirds of the run are validation, so readings are three times as frequent."""
    run = simulated(
        40_000,
        step=lambda t: 1e-3,
        landscape=lambda t: 0.01,
        geometry=lambda t: 0.002,
        pause=lambda t: 1.0 if t and t % 500 == 0 else 0.0,
    )
    assert LEAST * BUDGET <= run.share(15_000, 39_999) <= MOST * BUDGET


@pytest.mark.parametrize("idle", [1e-6, 1e-5, 3e-5])
def test_what_steps_without_readings_cost_is_paid_from_the_budget(idle: float) -> None:
    begin = warm(1e-3, 0.012)
    run = simulated(
        40_000,
        step=lambda t: 1e-3,
        landscape=lambda t: 0.01,
        geometry=lambda t: 0.002,
        idle=idle,
    )
    assert LEAST * BUDGET <= run.share(begin, 39_999) <= MOST * BUDGET
    assert run.share(0, 39_999) <= MOST * BUDGET


def test_a_first_step_that_takes_a_minute_buys_no_readings() -> None:
    run = simulated(
        20_000,
        step=lambda t: 60.0 if t == 0 else 1e-3,
        landscape=lambda t: 0.01,
        geometry=lambda t: 0.002,
    )
    assert run.share(1000, 19_999) <= MOST * BUDGET


@pytest.mark.parametrize("budget", [0.005, 0.2, 0.5])
def test_other_budgets(budget: float) -> None:
    run = simulated(
        60_000,
        step=lambda t: 1e-3,
        landscape=lambda t: 0.005,
        geometry=lambda t: 0.001,
        budget=budget,
    )
    assert LEAST * budget <= run.share(20_000, 59_999) <= MOST * budget
    assert run.share(0, 59_999) <= MOST * budget


# the first steps


@pytest.mark.parametrize("reading", [1e-5, 1e-3, 0.02, 0.05])
def test_a_short_run_has_a_curve_where_readings_are_cheap(reading: float) -> None:
    run = simulated(
        200,
        step=lambda t: 2e-3,
        landscape=lambda t: reading,
        geometry=lambda t: reading / 5,
    )
    assert set(EARLY_STEPS) <= set(run.read["landscape"])
    assert set(EARLY_STEPS) <= set(run.read["step"])


def test_where_not_all_early_readings_can_be_had_the_later_ones_are() -> None:
    """A warm-up of 100 s may spend 5 s."""
    run = simulated(1001, step=lambda t: 0.1, landscape=lambda t: 1.2, geometry=lambda t: 0.1)
    early = [t for t in run.read["landscape"] if t <= 200]
    assert early[0] == 0
    assert early[-1] == 100
    assert len(early) > 2
    assert len(early) < len(EARLY_STEPS)
    assert run.share(0, 1000) <= MOST * BUDGET


# resumed runs, several processes, fixed cadences beside the budget


@pytest.mark.parametrize("at", [3, 57, 10_000, 10_003])
def test_a_resumed_run_goes_on_alike(at: int) -> None:
    times: dict[str, Any] = {
        "step": lambda t: 1e-3,
        "landscape": lambda t: 0.011,
        "geometry": lambda t: 0.002,
    }
    whole, cut = simulated(20_000, **times), simulated(at, **times)
    state = cut.schedule.state_dict()
    cut.new_schedule()
    cut.schedule.load_state_dict(state)
    cut.start()
    for t in range(at, 20_000):
        cut.make_step(t)
    assert cut.read == whole.read


class Rank(Process):
    """One of two processes, each with a thread and a clock of its own."""

    def __init__(self, barrier: threading.Barrier, shared: dict[int, Sequence[float]], **options: Any):
        super().__init__(**options)
        self.barrier, self.shared = barrier, shared

    def mean_of(self, values: Sequence[float]) -> list[float]:
        """The average over both; a process that waits alone breaks the barrier."""
        self.shared[id(self)] = values
        self.barrier.wait(timeout=300)
        average = [sum(each) / 2 for each in zip(*self.shared.values(), strict=True)]
        self.barrier.wait(timeout=300)
        return average


def test_processes_with_different_clocks_read_at_the_same_steps() -> None:
    barrier, shared = threading.Barrier(2), dict[int, Sequence[float]]()
    noise = [random.Random(seed) for seed in (0, 1)]

    def seconds(of: random.Random, typical: float) -> Any:
        return lambda t: typical * of.lognormvariate(0, 0.5)

    ranks = [
        Rank(
            barrier,
            shared,
            step=seconds(of, 1e-3 * (1 + rank)),
            landscape=seconds(of, 0.01),
            geometry=seconds(of, 0.002),
        )
        for rank, of in enumerate(noise)
    ]

    def train(rank: Rank) -> None:
        rank.start()
        for t in range(5000):
            rank.make_step(t)

    threads = [threading.Thread(target=train, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not barrier.broken
    assert ranks[0].read == ranks[1].read
    assert len(ranks[0].read["step"]) > 20


def test_measures_with_a_cadence_of_their_own_are_not_paid_from_the_budget() -> None:
    run = Process(step=lambda t: 1e-3, landscape=lambda t: 0.01, geometry=lambda t: 0.01)
    run.schedule = Schedule(
        [Sharpness(), StepGeometry(every_n_steps=2)],
        every_n_steps=None,
        budget=BUDGET,
        now=lambda: run.time,
    )
    run.start()
    for t in range(20_000):
        run.make_step(t)
    assert run.read["step"] == list(range(0, 20_000, 2))
    spent = 0.01 * sum(t >= 10_000 for t in run.read["landscape"])
    used = spent / (run.marks[-1][0] - run.marks[10_000][0])
    assert LEAST * BUDGET <= used <= MOST * BUDGET


def test_danger_brings_readings_closer_within_the_budget() -> None:
    run = Process(step=lambda t: 0.1, landscape=lambda t: 2.0, geometry=lambda t: 0.3)
    run.start()
    for t in range(6000):
        dangerous = t in range(4000, 4012) or t >= 5000
        run.schedule.prioritize({"step_geometry"} if dangerous else ())
        run.make_step(t)
    usual = [t for t in run.read["step"] if 3000 <= t < 4000]
    closer = [t for t in run.read["step"] if 4000 <= t < 4012]
    assert min(b - a for a, b in itertools.pairwise(usual)) >= 20
    assert len(closer) >= 5  # what was saved
    assert closer == list(range(closer[0], closer[0] + len(closer)))
    # the landscape was not asked for
    assert not [t for t in run.read["landscape"] if 4000 <= t < 4012 and t % 100]
    # danger that lasts has what there is, and no more
    assert run.share(1000, 5999) <= 1.1 * run.budget
    assert run.share(5000, 5999) <= 1.5 * run.budget


def test_a_fixed_cadence_stays_in_danger() -> None:
    run = Process(step=lambda t: 0.1, landscape=lambda t: 0.1, geometry=lambda t: 0.1, every_n_steps=50)
    run.start()
    for t in range(200):
        run.schedule.prioritize({"sharpness", "step_geometry"})
        run.make_step(t)
    assert run.read["step"] == run.read["landscape"] == [0, 50, 100, 150]
