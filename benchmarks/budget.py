"""The share of the training time that readings take, where `budget=0.05` is asked for.

In the middle third of each run every step takes ten times as long.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from rich.progress import Progress

from benchmarks.report import Check, markdown_table, percent
from benchmarks.trainers import fit
from benchmarks.workloads import WORKLOADS
from curvwatch import CurvatureMonitor

TITLE = "Budget"
BUDGET, MOST, LEAST = 0.05, 1.1, 0.5
SLOWER = 10
# batches are small so that a run has many readings, examples and steps
RUNS = {"mlp": (32, 9000), "cnn": (4, 4500), "gpt": (1, 3000)}
# of the steps: what the first readings take is saved later
WARM_UP = 1 / 6


def run(progress: Progress, *, quick: bool) -> dict[str, Any]:
    """The share in each third of a run, and after the warm-up."""
    runs = {"mlp": (32, 3000)} if quick else RUNS
    return {name: _shares(name, size, steps, progress) for name, (size, steps) in runs.items()}


def checks(results: dict[str, Any]) -> Iterator[Check]:
    """The budget is kept, and used."""
    for name, shares in results.items():
        label, value = WORKLOADS[name].label, shares["after warm-up"]
        note = f"reported {shares['reported']:.1%}, of the whole run {shares['whole run']:.1%}"
        bounds = BUDGET * MOST, BUDGET * LEAST
        yield Check(f"{label}: share after warm-up", value, *bounds, written=percent, note=note)


def markdown(results: dict[str, Any]) -> str:
    """One row a network."""
    columns = ("after warm-up", "usual steps", "10 x slower", "usual again", "whole run", "reported")
    rows = [
        [WORKLOADS[name].label, *(f"{shares[c]:.1%}" for c in columns), ", ".join(shares["cadences"])]
        for name, shares in results.items()
    ]
    return markdown_table(["network", *columns, "steps between readings of the landscape"], rows)


class _TimedMonitor(CurvatureMonitor):
    """Times its own hooks, whatever its clock says."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.spent = 0.0
        self._depth = 0

    def _timed(self, hook: Any, *args: Any) -> Any:
        begin = time.perf_counter()
        self._depth += 1
        try:
            return hook(*args)
        finally:
            self._depth -= 1
            if not self._depth:
                self.spent += time.perf_counter() - begin

    def on_before_backward(self, *args: Any) -> None:
        self._timed(super().on_before_backward, *args)

    def on_before_optimizer_step(self, *args: Any) -> None:
        self._timed(super().on_before_optimizer_step, *args)

    def on_train_batch_end(self, *args: Any) -> None:
        self._timed(super().on_train_batch_end, *args)

    def _get_ready(self, *args: Any) -> None:
        self._timed(super()._get_ready, *args)


class _Jumps(L.Callback):
    """Sleeps through nine more step times in the middle third; notes time and spending at marks."""

    def __init__(self, monitor: _TimedMonitor, steps: int, progress: Progress, bar: Any) -> None:
        self._monitor = monitor
        self._steps = steps
        self._progress, self._bar = progress, bar
        self._begin = 0.0
        self._took: list[float] = []
        self.marks: dict[int, tuple[float, float]] = {}

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Note where the run is."""
        step, third = trainer.global_step, self._steps // 3
        if step in (0, int(self._steps * WARM_UP), third, 2 * third):
            self.mark(step)
        self._begin, self._spent = time.perf_counter(), self._monitor.spent

    def on_before_zero_grad(self, trainer: L.Trainer, *_: Any) -> None:
        """Within the step, as a slower forward pass would be."""
        third = self._steps // 3
        if third <= trainer.global_step < 2 * third:
            usual = sorted(self._took)[len(self._took) // 2]
            time.sleep((SLOWER - 1) * usual)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Learn what a usual step takes."""
        if trainer.global_step <= self._steps // 3:
            own = time.perf_counter() - self._begin - (self._monitor.spent - self._spent)
            self._took.append(own)
        self._progress.update(self._bar, completed=trainer.global_step)

    def mark(self, step: int) -> None:
        """Remember time and spending."""
        self.marks[step] = (time.perf_counter(), self._monitor.spent)


def _shares(name: str, size: int, steps: int, progress: Progress) -> dict[str, Any]:
    workload = WORKLOADS[name]
    draws = torch.Generator().manual_seed(1)
    batches = [workload.batch(draws, size) for _ in range(min(steps, 500))]
    bar = progress.add_task(f"{TITLE}, {workload.label}", total=steps)
    monitor = _TimedMonitor(budget=BUDGET)
    jumps = _Jumps(monitor, steps, progress, bar)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")
        fit(workload.task("sgd"), [batches[i % len(batches)] for i in range(steps)], monitor, jumps)
    jumps.mark(steps)
    third = steps // 3
    read = monitor.history["curvature/sharpness"].steps

    def share(begin: int, end: int) -> float:
        (t0, spent0), (t1, spent1) = jumps.marks[begin], jumps.marks[end]
        return (spent1 - spent0) / (t1 - t0)

    def cadence(begin: int, end: int) -> str:
        inside = read[(read >= begin) & (read < end)]
        return f"{(inside[-1] - inside[0]) / (len(inside) - 1):.0f}" if len(inside) > 1 else "-"

    thirds = ((0, third), (third, 2 * third), (2 * third, steps))
    return {
        "after warm-up": share(int(steps * WARM_UP), steps),
        "usual steps": share(*thirds[0]),
        "10 x slower": share(*thirds[1]),
        "usual again": share(*thirds[2]),
        "whole run": share(0, steps),
        "reported": float(monitor.history["curvature/cost_share"].values[-1]),
        "cadences": [cadence(*bounds) for bounds in thirds],
    }
