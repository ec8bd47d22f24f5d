"""The peak memory of a reading beside that of a training step, each in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from rich.progress import Progress

from benchmarks.child import begin, in_child
from benchmarks.report import Check, markdown_table
from benchmarks.trainers import fit
from benchmarks.workloads import WIDE, WORKLOADS
from curvwatch import CurvatureMonitor

TITLE = "Memory"
BOUND = 1.3
NETWORKS = {**WORKLOADS, "wide": WIDE}
SIZES = {"mlp": (32, 2048, 16384), "cnn": (32, 512, 2048), "gpt": (16, 64, 256), "wide": (128,)}


def run(progress: Progress, *, quick: bool) -> dict[str, Any]:
    """Peak resident memory with and without readings, for growing batches."""
    sizes = {"mlp": (32,), "cnn": (512,), "wide": (128,)} if quick else SIZES
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
    workload = NETWORKS[name]
    batch = workload.batch(torch.Generator().manual_seed(1), size)
    callbacks = [CurvatureMonitor(every_n_steps=1, on_error="raise")] if readings else []
    task = workload.task("adam")
    begin()
    fit(task, [batch] * 3, *callbacks)
    return {"weights": sum(p.numel() * p.element_size() for p in task.parameters())}


def checks(results: dict[str, Any]) -> Iterator[Check]:
    """The bound on the process's peak."""
    for key, pair in results.items():
        ratio, net, vectors = _ratios(pair)
        note = f"net {net:.2f}"
        if key.startswith("wide"):
            note = f"its weights {vectors:.0f} times more, beside 4 in a step"
        yield Check(f"{_label(key)}: peak over a training step's", ratio, BOUND, note=note)


def markdown(results: dict[str, Any]) -> str:
    """One row a network and batch size."""
    rows = []
    for key, pair in results.items():
        failed = [one["failed"] for one in pair.values() if "failed" in one]
        if failed:
            rows.append([_label(key), f"failed: {failed[0]}"])
            continue
        ratio, net, vectors = _ratios(pair)
        peaks = [f"{pair[what]['peak'] / 2**20:,.0f}" for what in ("step", "reading")]
        weights = f"{pair['step']['weights'] / 2**20:.1f}"
        rows.append(
            [
                _label(key),
                weights,
                *peaks,
                f"{ratio:.2f}",
                f"{net:.2f}",
                f"{vectors:.0f}" if key.startswith("wide") else "",
            ]
        )
    head = ["batch", "weights, MiB", "training alone, MiB", "with readings, MiB", "ratio", "net ratio"]
    return markdown_table([*head, "more, in sizes of the weights"], rows)


def _ratios(pair: dict[str, Any]) -> tuple[float, float, float]:
    """Of the peaks, of what they are over the beginning, and their difference over the weights."""
    if any("failed" in one for one in pair.values()):
        return float("nan"), float("nan"), float("nan")
    step, reading = pair["step"], pair["reading"]
    net = (reading["peak"] - reading["base"]) / (step["peak"] - step["base"])
    return reading["peak"] / step["peak"], net, (reading["peak"] - step["peak"]) / step["weights"]


def _label(key: str) -> str:
    name, size = key.split()
    return f"{NETWORKS[name].label}, batch of {size}"
