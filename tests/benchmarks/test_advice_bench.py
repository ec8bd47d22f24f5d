"""What the benchmark of advice makes of made-up runs; its page is that of its results."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks import advice as bench
from curvwatch import History
from curvwatch.results.advice import Advice, Warmup

FALLS = np.geomspace(2.0, 0.2, 200)


def ended(losses: np.ndarray, *, s: float = 0.2, chi: float = 0.5) -> bench.Outcome:
    history = History()
    for step in range(len(losses)):
        history.record(step, {"step/stability_ratio": s, "curvature/stability_ratio": chi})
    return bench.outcome(2.0, 0.1, history, losses)


def changed(at: slice, to: float) -> np.ndarray:
    losses = FALLS.copy()
    losses[at] = to
    return losses


@pytest.mark.parametrize(
    ("losses", "options", "fate", "why"),
    [
        (FALLS, {}, "under", ""),
        (FALLS, {"chi": 0.9}, "edge", ""),
        (FALLS, {"s": 1.1}, "left", "overshoots"),
        (changed(slice(150, 155), 3.0), {}, "left", "loss jumps"),
        (changed(slice(150, 152), 3.0), {}, "under", ""),
        (changed(slice(199, None), math.nan), {}, "left", "diverges"),
        (FALLS[::-1], {}, "left", "does not train"),
        (np.concatenate([FALLS[:150], [1e-3] * 40, [0.1] * 10]), {}, "under", ""),
    ],
)
def test_what_became_of_a_run(losses: np.ndarray, options: dict, fate: str, why: str) -> None:
    found = ended(losses, **options)
    assert (found.fate, found.why) == (fate, why)


def test_a_schedule_is_the_advised_one_times_the_multiple() -> None:
    advice = Advice(learning_rate=0.1, warmup=Warmup(0.02, 0, 40))
    rate = bench.schedule(advice, 2.0)
    assert [rate(step) for step in (0, 20, 40, 100)] == pytest.approx([0.04, 0.12, 0.2, 0.2])
    held = bench.schedule(Advice(learning_rate=0.1, warmup=Warmup(0.02, 20, 40)), 0.5)
    assert [held(step) for step in (0, 20, 30, 40, 41)] == pytest.approx([0.01, 0.01, 0.03, 0.05, 0.05])
    assert bench.schedule(Advice(learning_rate=0.1), 0.5)(7) == 0.05


def test_a_short_run_is_read_and_kept() -> None:
    history, losses = bench.trained(bench.SETTINGS[0], lambda _: 0.03, steps=11, seed=0, every=5)
    assert losses.shape == (11,)
    assert history["curvature/stability_ratio"].steps.tolist() == [0, 5, 10]
    assert len(history["step/stability_ratio"].steps) == 11


def test_the_page_is_that_of_its_results(tmp_path) -> None:
    text = bench.PAGE.read_text(encoding="utf-8")
    assert bench.with_tables(text, bench.RESULTS) == text
    cases, told = bench.read_results(bench.RESULTS)
    assert {c.seed for c in cases} == set(bench.SEEDS)
    assert len(cases) == len(bench.SEEDS) * len(bench.SETTINGS)
    asked = [r for c in cases for r in c.rounds]
    assert all((r.unwarmed is not None) == bool(r.warmup) for r in asked)
    assert len(bench.warmups(cases)) == sum(bool(r.warmup) for r in asked) > 0
    bench.write_results(tmp_path / "again.json", cases, told)
    assert (tmp_path / "again.json").read_bytes() == bench.RESULTS.read_bytes()
