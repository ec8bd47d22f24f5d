"""The peak memory of a reading beside that of a training step, each in a process of its own."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from rich.progress import Progress

from benchmarks.child import begin, in_child
from benchmarks.report import Check, markdown_table
from benchmarks.trainers import fit
from benchmarks.workloads import WORKLOADS
from curvwatch import CurvatureMonitor

TITLE = "Memory"
BOUND = 1.3
SIZES = {"mlp": (32, 2048), "cnn": (32, 128, 512, 2048), "gpt": (16, 64, 256)}


def run(progress: Progress, *, quick: bool) -> dict[str, Any]:
    """Peak resident memory with and without readings, for growing batches."""
    sizes = {"mlp": (32, 2048)} if quick else SIZES
    bar = progress.add_task(TITLE, total=2 * sum(map(len, sizes.values())))
    results = {}
    for name, batch_sizes in sizes.items():
        for size in batch_sizes:
            pair = {}
            for what in ("step", "reading"):
                pair[what] = in_child(
                    "benchmarks.memory", "trained", name=name, size=size, readings=what == "reading"
                )
                progress.advance(bar)
            results[f"{name} {size}"] = pair
    return results


def trained(name: str, size: int, readings: bool) -> dict[str, Any]:
    """Train for three steps, with a reading at each if asked for; runs in a child."""
    workload = WORKLOADS[name]
    batch = workload.batch(torch.Generator().manual_seed(1), size)
    callbacks = [CurvatureMonitor(every_n_steps=1, on_error="raise")] if readings else []
    task = workload.task("adam")
    begin()
    fit(task, [batch] * 3, *callbacks)
    return {}


def checks(results: dict[str, Any]) -> Iterator[Check]:
    """The bound on the process's peak."""
    for key, pair in results.items():
        ratio, net = _ratios(pair)
        what = f"{_label(key)}: peak over a training step's"
        yield Check(what, ratio, BOUND, note=f"net {net:.2f}")


def markdown(results: dict[str, Any]) -> str:
    """One row a network and batch size."""
    rows = []
    for key, pair in results.items():
        failed = [one["failed"] for one in pair.values() if "failed" in one]
        if failed:
            rows.append([_label(key), f"failed: {failed[0]}"])
            continue
        ratio, net = _ratios(pair)
        peaks = [f"{pair[what]['peak'] / 2**20:,.0f}" for what in ("step", "reading")]
        rows.append([_label(key), *peaks, f"{ratio:.2f}", f"{net:.2f}"])
    head = ["batch", "training alone, MiB", "with readings, MiB", "ratio"]
    table = markdown_table([*head, "ratio without what the process had before"], rows)
    chosen = "chunk_size" in inspect.signature(CurvatureMonitor).parameters
    return table + ("" if chosen else "\n\nBatches are not split into chunks.")


def _ratios(pair: dict[str, Any]) -> tuple[float, float]:
    if any("failed" in one for one in pair.values()):
        return float("nan"), float("nan")
    step, reading = pair["step"], pair["reading"]
    net = (reading["peak"] - reading["base"]) / (step["peak"] - step["base"])
    return reading["peak"] / step["peak"], net


def _label(key: str) -> str:
    name, size = key.split()
    return f"{WORKLOADS[name].label}, batch of {size}"
