"""What `CurvatureMonitor()` reads, and what it takes, in runs of several lengths.

Runs with and without the monitor alternate, and processor time is compared.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from rich.progress import Progress

from benchmarks.report import Check, markdown_table, percent
from benchmarks.trainers import fit
from benchmarks.workloads import WORKLOADS
from curvwatch import CurvatureMonitor
from curvwatch.training.schedule.budget import SHORT_RUN_SECONDS

TITLE = "Budget"
BUDGET, MOST = 0.05, 1.1
# network, optimizer, steps of the run, times that it is made
RUNS = (
    ("mlp", "adam", 200, 5),
    ("mlp", "sgd", 400, 5),
    ("mlp", "sgd", 5000, 2),
    ("cnn", "adam", 400, 1),
    ("cnn", "sgd", 5000, 1),
    ("gpt", "adam", 400, 1),
    ("gpt", "adam", 2000, 1),
)
QUICK = (("mlp", "adam", 200, 2),)
# readings of the step and of the landscape, at least, in runs of up to 400 steps and in longer ones
SHORT, FEWEST = 400, {False: (20, 10), True: (60, 25)}
SPREAD = 15
# the reported share and the measured one differ by at most this part
TRUE = 0.1
_STAGES = {"step": "step/loss_change", "landscape": "curvature/sharpness"}


def run(progress: Progress, *, quick: bool) -> dict[str, Any]:
    """Readings and seconds of each run."""
    runs = QUICK if quick else RUNS
    return {
        f"{name}, {optimizer}, {steps} steps": _run(name, optimizer, steps, times, progress)
        for name, optimizer, steps, times in runs
    }


def checks(results: dict[str, Any]) -> Iterator[Check]:
    """Enough readings, spread over the run, and the share where a run is long."""
    for name, of in results.items():
        steps, long = of["steps"], of["steps"] > SHORT
        count = "{:.0f}".format
        is_short = of["training"] < SHORT_RUN_SECONDS
        for stage, fewest in zip(_STAGES, FEWEST[long], strict=True):
            if is_short:
                value = float(len(of[stage]))
                yield Check(f"{name}: readings of the {stage}", value, None, fewest, written=count)
        gap = float(_longest_gap(of["step"], steps))
        if long:
            yield Check(f"{name}: longest gap between steps read", gap, steps / SPREAD, written=count)
        if not is_short:
            note = f"{len(of['step'])} readings of the step, {len(of['landscape'])} of the landscape"
            yield Check(f"{name}: share", of["reported"], BUDGET * MOST, written=percent, note=note)
        ratio = of["reported"] / of["measured"] if of["measured"] > 0 else float("nan")
        bounds = 1 + TRUE, 1 - TRUE
        yield Check(f"{name}: reported share over measured", ratio, *bounds)


def markdown(results: dict[str, Any]) -> str:
    """One row a run."""
    head = ["run", "seconds without", "of readings", "share reported", "share measured", "step read"]
    rows = [
        [
            name,
            f"{of['training']:.1f}",
            f"{of['reading']:.2f}",
            f"{of['reported']:.1%}",
            f"{of['measured']:.1%}",
            f"{len(of['step'])}, gap {_longest_gap(of['step'], of['steps'])}",
            f"{len(of['landscape'])}, gap {_longest_gap(of['landscape'], of['steps'])}",
        ]
        for name, of in results.items()
    ]
    return markdown_table([*head, "landscape read"], rows)


def _run(name: str, optimizer: str, steps: int, times: int, progress: Progress) -> dict[str, Any]:
    workload = WORKLOADS[name]
    task = progress.add_task(f"{TITLE}, {workload.label}, {steps} steps", total=2 * times)
    draws = torch.Generator().manual_seed(1)
    few = [workload.batch(draws, workload.batch_size) for _ in range(min(steps, 100))]
    batches = [few[i % len(few)] for i in range(steps)]
    plain, with_monitor = [], []
    monitor = CurvatureMonitor()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")
        for _ in range(times):
            plain.append(_seconds(workload.task(optimizer), batches))
            progress.advance(task)
            monitor = CurvatureMonitor()
            with_monitor.append(_seconds(workload.task(optimizer), batches, monitor))
            progress.advance(task)
    clock = monitor._session.schedule.clock
    history = monitor.history
    read = {
        stage: history[metric].steps.tolist() if metric in history else []
        for stage, metric in _STAGES.items()
    }
    return {
        **read,
        "steps": steps,
        "training": clock.total_seconds - clock.reading_seconds,
        "reading": clock.reading_seconds,
        "reported": clock.share,
        "measured": 1 - min(plain) / min(with_monitor),
    }


def _seconds(module: Any, batches: Sequence[Any], *callbacks: Any) -> float:
    begin = time.process_time()
    fit(module, batches, *callbacks)
    return time.process_time() - begin


def _longest_gap(read: Sequence[int], steps: int) -> int:
    return max(b - a for a, b in itertools.pairwise([0, *read, steps]))
