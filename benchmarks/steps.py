"""What reading an optimizer step costs beyond training it."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from rich.progress import Progress

from benchmarks.counting import Counts, counting
from benchmarks.report import Check, markdown_table
from benchmarks.timing import gradient_seconds
from benchmarks.trainers import StepTimes, fit
from benchmarks.workloads import WORKLOADS, Workload
from curvwatch import CurvatureMonitor, StepGeometry

TITLE = "Step geometry"
BOUNDS = {"exact": 4.2, "secant": 1.3}
STEPS = 60


def run(progress: Progress, *, quick: bool) -> dict[str, Any]:
    """Extra gradients of a measured step, counted and timed, for each network and mode."""
    names = ("mlp",) if quick else tuple(WORKLOADS)
    bar = progress.add_task(TITLE, total=len(names) * len(BOUNDS))
    results = {}
    for name in names:
        for curvature in BOUNDS:
            results[f"{name} {curvature}"] = _measured(WORKLOADS[name], curvature)
            progress.advance(bar)
    return results


def checks(results: dict[str, Any]) -> Iterator[Check]:
    """The bounds, counted and timed."""
    for key, values in results.items():
        name, curvature = key.split()
        what = f"{WORKLOADS[name].label}, {curvature}"
        yield Check(f"{what}: extra gradients, counted", values["counted"], BOUNDS[curvature])
        note = f"{values['milliseconds']:.1f} ms"
        yield Check(f"{what}: extra gradients, by time", values["timed"], BOUNDS[curvature], note=note)


def markdown(results: dict[str, Any]) -> str:
    """One row a network and mode."""
    rows = []
    for key, values in results.items():
        name, curvature = key.split()
        spent = values["spent"]
        rows.append(
            [
                WORKLOADS[name].label,
                curvature,
                f"{values['counted']:.2f}",
                f"{values['timed']:.2f}",
                f"{spent['forwards']:.2f}, {spent['gradients']:.2f}, {spent['products']:.2f}",
            ]
        )
    head = ["network", "curvature", "extra gradients, counted", "by time"]
    return markdown_table([*head, "loss computed, gradients, products"], rows)


def _measured(workload: Workload, curvature: Any) -> dict[str, Any]:
    draws = torch.Generator().manual_seed(1)
    batches = [workload.batch(draws, workload.batch_size) for _ in range(STEPS)]
    plain, _ = _trained(workload, batches, None)
    with_readings, seconds = _trained(workload, batches, curvature)
    readings = STEPS // 2
    spent = {
        name: (getattr(with_readings, name) - getattr(plain, name)) / readings
        for name in ("forwards", "gradients", "products")
    }
    counted = (with_readings.cost - plain.cost) / readings
    # a step with a reading against those without at its sides; not the first ones
    extra = [seconds[i] - (seconds[i - 1] + seconds[i + 1]) / 2 for i in range(4, len(seconds) - 1, 2)]
    gradient = gradient_seconds(workload.task(), batches[0], times=15)
    timed = statistics.median(extra) / gradient
    return {
        "counted": round(counted, 3),
        "timed": round(timed, 3),
        "milliseconds": round(1000 * statistics.median(extra), 3),
        "spent": spent,
    }


def _trained(workload: Workload, batches: list[Any], curvature: Any) -> tuple[Counts, list[float]]:
    """What a run cost with a reading of every second step, or without any; and its step times."""
    times = StepTimes()
    callbacks: list[Any] = [times]
    if curvature is not None:
        measure = StepGeometry(curvature=curvature)
        callbacks.append(CurvatureMonitor([measure], every_n_steps=2, on_error="raise"))
    with counting() as counts, warnings.catch_warnings():
        warnings.filterwarnings("ignore")
        fit(workload.task(), batches, *callbacks)
    return counts, times.seconds
