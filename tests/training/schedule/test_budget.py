"""The promise on the time that readings take, on simulated clocks."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from curvwatch.measures import Sharpness, StepGeometry
from curvwatch.training.schedule.budget import (
    CREDIT_SECONDS,
    FLOOR_SECONDS,
    SHORT_RUN_SECONDS,
    START_COST,
    START_SECONDS,
    START_STEPS,
    UNKNOWN_CREDIT_SECONDS,
)
from curvwatch.training.schedule.grid import is_on_grid
from curvwatch.training.schedule.schedule import Schedule
from tests.support.simulated import Process, simulated
from tests.support.studies import without

BUDGET = 0.05
# of the time of a run; a reading that costs more than those before it may be over
MOST = 1.1 * BUDGET


def noisy(seconds: float, *, first: float = 2.0, seed: int = 0) -> Any:
    """Times that scatter by a fifth; the first one is longer."""
    noise = random.Random(seed)
    waiting = [first]

    def of(t: int) -> float:
        return seconds * noise.lognormvariate(0, 0.2) * (waiting.pop() if waiting else 1.0)

    return of


def run_of(
    steps: int, step: float, geometry: float, landscape: float, *, known: bool = True, **options: Any
) -> Process:
    """A run of networks with such times, in seconds."""
    return simulated(
        steps,
        step=noisy(step, first=1.0),
        geometry=noisy(geometry, seed=1),
        landscape=noisy(landscape, seed=2),
        total_steps=steps if known else None,
        **{"idle": 1e-5, **options},
    )


def spent(run: Process) -> float:
    return run.schedule.clock.reading_seconds


def trained(run: Process) -> float:
    return run.schedule.clock.total_seconds - spent(run)


def longest_gap(steps: Sequence[int], total: int) -> int:
    return max(b - a for a, b in itertools.pairwise([0, *steps, total]))


# seconds of a step, of a reading of it, of the landscape: an MLP as it is and with cheap readings, a
# CNN, a small transformer
MLP, TINY, CNN, GPT = (
    (1.3e-3, 15e-3, 30e-3),
    (0.4e-3, 2e-3, 8e-3),
    (26e-3, 0.12, 0.35),
    (80e-3, 0.42, 1.1),
)


@pytest.mark.parametrize("times", [MLP, TINY, CNN, GPT])
@pytest.mark.parametrize("steps", [200, 400])
def test_a_short_run_has_twenty_readings_of_the_step_and_ten_of_the_landscape(
    times: tuple[float, float, float], steps: int
) -> None:
    run = run_of(steps, *times)
    for stage, fewest in (("step", 20), ("landscape", 10)):
        read = run.read[stage]
        assert len(read) >= fewest
        quarters = [sum(i * steps / 4 <= t < (i + 1) * steps / 4 for t in read) for i in range(4)]
        assert min(quarters[1:]) >= fewest / 8
    assert spent(run) <= FLOOR_SECONDS + sum(times)


@pytest.mark.parametrize("times", [MLP, TINY])
def test_five_thousand_steps_of_a_millisecond(times: tuple[float, float, float]) -> None:
    run = run_of(5000, *times)
    for stage, fewest in (("step", 60), ("landscape", 25)):
        assert len(run.read[stage]) >= fewest
        assert longest_gap(run.read[stage], 5000) <= 5000 / 15


LONG = [
    (*MLP, 60_000),
    (*TINY, 200_000),
    (*CNN, 5000),
    (*GPT, 2000),
    (*GPT, 5000),
    (0.1, 0.5, 2.0, 5000),
]


@pytest.mark.parametrize(
    ("step", "geometry", "landscape", "steps"), without(LONG, leave=[(*TINY, 200_000)])
)
def test_a_run_of_over_a_minute_keeps_to_the_share_at_any_time(
    step: float, geometry: float, landscape: float, steps: int
) -> None:
    run = run_of(steps, step, geometry, landscape)
    assert trained(run) > SHORT_RUN_SECONDS
    assert run.share(0, steps - 1) <= MOST
    whole = BUDGET / (1 - BUDGET) * trained(run)
    for total, reading in run.marks[:: max(1, steps // 500)]:
        ahead = min(whole / 4, CREDIT_SECONDS)
        # the one that was under way, which may be dearer than those before
        assert reading <= BUDGET / (1 - BUDGET) * (total - reading) + ahead + 2 * (geometry + landscape)
    assert run.share(0, steps - 1) >= 0.7 * BUDGET  # and what there is is used
    for stage in ("step", "landscape"):
        assert run.read[stage][-1] >= 0.6 * steps  # none of them starves


@pytest.mark.parametrize("times", [CNN, GPT, (0.1, 0.5, 2.0), (1.8, 9.0, 80.0)])
@pytest.mark.parametrize("steps", [40, 2000])
@pytest.mark.parametrize("known", [True, False])
def test_the_start_of_a_run_is_not_a_stall(
    times: tuple[float, float, float], steps: int, *, known: bool
) -> None:
    run = run_of(steps, *times, known=known)
    reading = run.marks[START_STEPS][1]
    # what a reading costs is a guess before there was one
    assert reading <= max(START_COST * times[0], START_SECONDS) + 2 * times[1]
    assert run.read["step"][0] < run.read["landscape"][0] if run.read["landscape"] else True


@pytest.mark.parametrize("times", [MLP, CNN, GPT])
def test_a_run_of_unknown_length_has_readings_from_its_start_and_repays_them(
    times: tuple[float, float, float],
) -> None:
    steps = int(150 / times[0])
    run = run_of(steps, *times, known=False)
    for total, reading in run.marks[:: max(1, steps // 500)]:
        accrued = BUDGET / (1 - BUDGET) * (total - reading)
        assert reading <= max(accrued, UNKNOWN_CREDIT_SECONDS) + 2 * sum(times[1:])
    assert run.share(0, steps - 1) <= MOST
    for stage in ("step", "landscape"):
        assert run.read[stage][-1] > steps / 2


def test_a_cheap_run_of_unknown_length_is_read_as_one_of_known_length() -> None:
    for steps in (200, 400):
        run = run_of(steps, *MLP, known=False)
        assert len(run.read["step"]) >= 18
        assert len(run.read["landscape"]) >= 10


def test_a_run_that_ends_long_before_its_last_step_has_been_read() -> None:
    """A thousand epochs were asked for, as by default, and EarlyStopping ends it after 5000 steps."""
    run = simulated(
        5000,
        step=noisy(MLP[0]),
        geometry=noisy(MLP[1]),
        landscape=noisy(MLP[2]),
        total_steps=100_000,
    )
    assert len(run.read["step"]) >= 30
    assert len(run.read["landscape"]) >= 15


@pytest.mark.parametrize("known", [True, False])
def test_readings_are_on_the_grid(*, known: bool) -> None:
    run = run_of(5000, *MLP, known=known)
    for stage in ("step", "landscape"):
        assert 0 not in run.read[stage]  # Adam has no edge there, and no one knows what a step takes
        gaps = [b - a for a, b in itertools.pairwise(run.read[stage])]
        # every one is at a multiple of the cadence of its time, and cadences are of the grid
        assert all(any(t % n == 0 for n in (*(n for n in (1, 2, 5, 10, 20, 50)),)) for t in gaps)
        assert all(is_on_grid(t) or t % 10 == 0 for t in run.read[stage])


@pytest.mark.parametrize("budget", [0.005, 0.2, 0.5])
def test_other_budgets(budget: float) -> None:
    run = run_of(60_000, 1.3e-3, 5e-3, 10e-3, budget=budget, idle=1e-7)
    assert 0.7 * budget <= run.share(0, 59_999) <= 1.1 * budget


def test_a_short_run_may_take_its_share_where_that_is_more_than_the_fewest_readings() -> None:
    run = run_of(10_000, 5e-3, 1e-3, 2e-3, budget=0.3)
    assert 0.2 <= run.share(0, 9999) <= 0.33


def test_steps_that_become_slower_and_faster_again() -> None:
    def factor(t: int) -> float:
        return 10.0 if 8000 <= t < 12_000 else 1.0

    run = simulated(
        20_000,
        step=lambda t: 0.01 * factor(t),
        landscape=lambda t: 0.1 * factor(t),
        geometry=lambda t: 0.03 * factor(t),
        total_steps=20_000,
    )
    assert run.share(0, 19_999) <= MOST
    for first in range(0, 20_000, 2000):
        assert any(first <= t < first + 2000 for t in run.read["step"])


def test_pauses_are_time_of_the_run_and_a_single_long_one_buys_little() -> None:
    """A validation after every 500 steps is two thirds of the time; one of ten minutes is none."""
    times: dict[str, Any] = {
        "step": lambda t: 1e-3,
        "landscape": lambda t: 0.03,
        "geometry": lambda t: 0.01,
        "total_steps": 100_000,
    }
    plain = simulated(100_000, **times)
    validated = simulated(100_000, pause=lambda t: 1.0 if t and t % 500 == 0 else 0.0, **times)
    assert spent(validated) > 2 * spent(plain)
    assert validated.share(0, 99_999) <= MOST
    stopped = simulated(100_000, pause=lambda t: 600.0 if t == 30_000 else 0.0, **times)
    assert spent(stopped) < 1.3 * spent(plain)


@pytest.mark.parametrize("idle", [1e-6, 1e-5, 3e-5])
def test_what_steps_without_readings_cost_is_paid_from_the_budget(idle: float) -> None:
    run = simulated(
        80_000,
        step=lambda t: 1e-3,
        landscape=lambda t: 0.01,
        geometry=lambda t: 0.002,
        idle=idle,
        total_steps=80_000,
    )
    assert 0.7 * BUDGET <= run.share(0, 79_999) <= MOST


def test_a_first_step_that_takes_a_minute_buys_no_readings() -> None:
    run = simulated(
        20_000,
        step=lambda t: 60.0 if t == 0 else 1e-3,
        landscape=lambda t: 0.03,
        geometry=lambda t: 0.01,
        total_steps=20_000,
    )
    plain = run_of(20_000, 1e-3, 0.01, 0.03)
    assert spent(run) <= 1.5 * spent(plain)


def test_a_run_of_one_step_is_read() -> None:
    run = simulated(
        1, step=lambda t: 0.1, landscape=lambda t: 0.1, geometry=lambda t: 0.1, total_steps=1
    )
    assert run.read["step"] == [0]


# what the budget cannot pay


@pytest.mark.parametrize(
    ("times", "steps", "short"),
    [(MLP, 400, False), (MLP, 100_000, False), ((1.8, 9.0, 80.0), 400, True), (GPT, 5000, False)],
)
def test_a_budget_that_pays_too_little_is_said_with_the_number(
    times: tuple[float, float, float], steps: int, *, short: bool
) -> None:
    run = run_of(steps, *times)
    text = run.schedule.shortfall
    assert (text is not None) == short
    if text is not None:
        assert f"{steps} steps" in text
        assert "the budget (0.05) pays for" in text


def test_a_large_network_has_one_reading_of_the_step_even_in_a_short_run() -> None:
    """GPT-2 on two cores: 40 steps of 1.8 s."""
    run = run_of(40, 1.8, 9.0, 80.0)
    assert len(run.read["step"]) == 1
    assert run.read["landscape"] == []


# resumed runs, several processes, fixed cadences beside the budget


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("at", [3, 57, 10_000, 10_003])
def test_a_resumed_run_goes_on_alike(at: int, *, known: bool) -> None:
    times: dict[str, Any] = {
        "step": lambda t: 1e-3,
        "landscape": lambda t: 0.011,
        "geometry": lambda t: 0.002,
        "total_steps": 20_000 if known else None,
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


@pytest.mark.parametrize("totals", [(5000, 5000), (None, None), (5000, None), (5000, 4000)])
def test_processes_with_different_clocks_read_at_the_same_steps(
    totals: tuple[int | None, int | None],
) -> None:
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
            total_steps=totals[rank],
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
    run = Process(
        step=lambda t: 1e-3, landscape=lambda t: 0.01, geometry=lambda t: 0.01, total_steps=80_000
    )
    run.schedule = Schedule(
        [Sharpness(), StepGeometry(every_n_steps=2)],
        every_n_steps=None,
        budget=BUDGET,
        now=lambda: run.time,
    )
    run.start()
    for t in range(80_000):
        run.make_step(t)
    assert run.read["step"] == list(range(0, 80_000, 2))
    used = 0.01 * len(run.read["landscape"])
    rest = trained(run)
    assert 0.6 * BUDGET <= used / rest <= 1.1 * BUDGET / (1 - BUDGET)


# readings that alerts and sentinels ask for


def test_danger_brings_readings_closer_within_the_budget() -> None:
    run = Process(step=lambda t: 0.1, landscape=lambda t: 2.0, geometry=lambda t: 0.3, total_steps=6000)
    run.start()
    for t in range(6000):
        dangerous = t in range(4000, 4012)
        run.schedule.prioritize({"step_geometry"} if dangerous else ())
        run.make_step(t)
    usual = [t for t in run.read["step"] if 3000 <= t < 4000]
    closer = [t for t in run.read["step"] if 4000 <= t < 4012]
    assert min(b - a for a, b in itertools.pairwise(usual)) >= 20
    assert len(closer) >= 10  # what was saved
    assert closer == list(range(closer[0], closer[0] + len(closer)))
    # the landscape was not asked for
    assert not [t for t in run.read["landscape"] if 4000 <= t < 4012 and t % 100]
    assert run.share(0, 5999) <= MOST


@pytest.mark.parametrize("known", [True, False])
def test_danger_that_lasts_has_what_there_is_and_no_more(*, known: bool) -> None:
    run = Process(
        step=lambda t: 0.1,
        landscape=lambda t: 2.0,
        geometry=lambda t: 0.3,
        total_steps=6000 if known else None,
    )
    run.start()
    for t in range(6000):
        run.schedule.prioritize({"step_geometry"} if t >= 1000 else ())
        run.make_step(t)
    assert run.share(0, 5999) <= MOST


def test_a_fixed_cadence_stays_in_danger() -> None:
    run = Process(step=lambda t: 0.1, landscape=lambda t: 0.1, geometry=lambda t: 0.1, every_n_steps=50)
    run.start()
    for t in range(200):
        run.schedule.prioritize({"sharpness", "step_geometry"})
        run.make_step(t)
    assert run.read["step"] == run.read["landscape"] == [0, 50, 100, 150]
