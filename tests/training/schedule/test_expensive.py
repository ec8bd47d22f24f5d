"""Expensive measures under a budget: on a cadence of their own, and cheap ones are read often."""

from __future__ import annotations

import itertools

import pytest
import torch

from curvwatch import CurvatureMonitor, Sharpness, StepGeometry
from curvwatch.measures import MEASURES, Measure, SpectralDensity, TopEigenvalues
from curvwatch.training.schedule.schedule import Schedule
from tests.support.modules import Classifier, fit
from tests.support.simulated import Process, simulated

STEP, CHEAP, EXPENSIVE = 0.01, 0.05, 2.0
STEPS = 60_000


class WithExpensive(Process):
    """Its landscape has an expensive part."""

    def new_schedule(self) -> None:
        self.expensive_read: list[int] = []
        measures = [Sharpness(), SpectralDensity(), StepGeometry()]
        self.schedule = Schedule(
            measures, every_n_steps=None, budget=self.budget, now=lambda: self.time
        )

    def make_step(self, t: int) -> None:
        schedule = self.schedule
        self.marks.append((schedule.clock.total_seconds, schedule.clock.reading_seconds))
        with schedule.clock.reading():
            due: dict[str, list[Measure]] = {}
            if t >= schedule.next_event:
                due = {"landscape": schedule.due("landscape", t), "step": schedule.due("step", t)}
        self.time += self.step(t)
        with schedule.clock.reading():
            for stage, measures in due.items():
                for part in schedule.groups(measures):
                    read = self.expensive_read if part[0].expensive else self.read[stage]
                    read.append(t)
                    with schedule.timed(part):
                        self.time += EXPENSIVE if part[0].expensive else CHEAP


def test_cheap_readings_are_often_expensive_ones_seldom_and_the_share_is_kept() -> None:
    run = WithExpensive(
        step=lambda t: STEP, landscape=lambda t: CHEAP, geometry=lambda t: CHEAP, total_steps=STEPS
    )
    run.start()
    for t in range(STEPS):
        run.make_step(t)
    assert 0.035 < run.share(0, STEPS - 1) < 0.055
    cheap, expensive = run.read["landscape"], run.expensive_read
    # an expensive reading costs more than the budget has by then, and no other waits for that
    assert cheap[0] <= 50
    assert max(b - a for a, b in itertools.pairwise(cheap)) <= 1000
    assert 3 <= len(expensive) <= 6
    assert expensive[-1] > STEPS / 2


def test_a_short_run_with_expensive_measures_has_some_of_each() -> None:
    run = WithExpensive(
        step=lambda t: STEP, landscape=lambda t: CHEAP, geometry=lambda t: CHEAP, total_steps=400
    )
    run.start()
    for t in range(400):
        run.make_step(t)
    assert len(run.read["landscape"]) >= 10
    assert len(run.read["step"]) >= 20
    assert len(run.expensive_read) >= 2


def test_without_expensive_measures_all_is_one_budget() -> None:
    run = simulated(3000, step=lambda t: STEP, landscape=lambda t: CHEAP, geometry=lambda t: CHEAP)
    assert run.schedule.budget is not None
    assert list(run.schedule.budget.every_n_steps) == ["step", "landscape"]
    sharpness = run.schedule._measures[0][0]
    assert run.schedule.groups([sharpness]) == [[sharpness]]
    assert run.schedule.groups([]) == []


@pytest.mark.parametrize("every_n_steps", [None, 1])
def test_a_fixed_cadence_reads_all_together(every_n_steps: int | None) -> None:
    """They share the gradient then; under a budget each part makes its own."""
    measures = [TopEigenvalues(k=2), Sharpness()]
    schedule = Schedule(measures, every_n_steps=every_n_steps, budget=0.05)
    expected = [[measures[1]], [measures[0]]] if every_n_steps is None else [measures]
    assert schedule.groups(measures) == expected


def test_costs_are_those_of_both_parts() -> None:
    """A cadence reads both in one group, a budget in two: a run of one step reads there."""
    values = {}
    for names in (["sharpness"], ["top_eigenvalues"], ["sharpness", "top_eigenvalues"]):
        monitor = CurvatureMonitor(names, budget=0.9)
        torch.manual_seed(0)
        fit(Classifier(), monitor, max_steps=1)
        values[tuple(names)] = monitor.history["curvature/cost_hvps"].values[0]
        assert "curvature/cost_seconds" in monitor.history
    first, second, both = values.values()
    assert both == first + second


def test_expensive_are_those_that_cost_several_times_what_the_sharpness_does() -> None:
    expensive = {name for name, measure in MEASURES.items() if measure.expensive}
    assert expensive >= {
        "layer_curvature",
        "spectral_density",
        "fisher",
        "gauss_newton",
        "layer_signal",
    }
    assert not expensive & {"sharpness", "step_geometry", "gradient_stats", "activation_sparsity"}
