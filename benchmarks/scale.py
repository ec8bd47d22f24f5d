"""How cost grows with parameters and with tokens; and a reading of 124 million parameters."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from benchmarks.child import begin as started
from benchmarks.child import in_child, limit_memory
from benchmarks.counting import counting
from benchmarks.report import Check, markdown_table
from benchmarks.timing import gradient_seconds, seconds_of
from benchmarks.trainers import fit
from benchmarks.workloads import GPT, Batch, Task, random_tokens
from curvwatch import CurvatureMonitor, Objective, Sharpness, StepGeometry, stability_law
from curvwatch.measures import Landscape
from curvwatch.objective.samples import RecordedBatch

TITLE = "Scale"
GIB = 2**30
MOST_MEMORY = 16.0
LOWEST, HIGHEST = 0.9, 1.1
VOCABULARY = 256
# widths with 4 sequences; sequences of 64 tokens at the width NARROW: large enough that what each
# operation costs by itself does not count
WIDTHS, SEQUENCES, NARROW = (256, 384, 512, 768), (8, 16, 32, 64), 192
# after so many steps the second reading has a warm start
STEPS_BETWEEN = 10


def run(progress: Progress, *, quick: bool) -> dict[str, Any]:
    """Both series, and the large network in a process of its own."""
    widths, sequences = ((128, 256), (4, 8)) if quick else (WIDTHS, SEQUENCES)
    bar = progress.add_task(TITLE, total=len(widths) + len(sequences) + (not quick))
    results: dict[str, Any] = {"parameters": [], "tokens": []}
    for width in widths:
        results["parameters"].append(_read(width=width, sequences=4))
        progress.advance(bar)
    for number in sequences:
        results["tokens"].append(_read(width=NARROW, sequences=number))
        progress.advance(bar)
    if not quick:
        progress.update(bar, description=f"{TITLE}, 124 million, some minutes")
        results["large"] = in_child("benchmarks.scale", "large")
        progress.advance(bar)
    return results


def checks(results: dict[str, Any]) -> Iterator[Check]:
    """Linear cost, a number of products that does not grow, and memory."""
    for series in ("parameters", "tokens"):
        rows = results[series]
        for what in ("product", "reading"):
            slope = _slope(rows, series, what)
            told = "product" if what == "product" else "reading, for a product,"
            yield Check(f"time of a {told} against {series}: slope", slope, HIGHEST, LOWEST)
        first, last = (rows[i]["first_products"] + rows[i]["products"] for i in (0, -1))
        what = f"products of the first two readings, largest {series}"
        yield Check(what, last, round(1.2 * first), written="{:.0f}".format)
    large = results.get("large")
    if large is not None:
        failed = large.get("failed", "")
        peak = math.nan if failed else large["peak"] / GIB
        yield Check("124 million parameters: peak GiB", peak, MOST_MEMORY, note=failed)


def markdown(results: dict[str, Any]) -> str:
    """Both series and the large network."""
    rows = [
        [
            series,
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['tokens']}",
            f"{row['gradient']:.3f}",
            f"{row['product'] / row['gradient']:.2f}",
            f"{row['first_products']}, {row['products']}",
            f"{row['reading'] / row['gradient']:.1f}",
        ]
        for series in ("parameters", "tokens")
        for row in results[series]
    ]
    text = markdown_table(
        [
            "series",
            "parameters, millions",
            "tokens",
            "gradient, s",
            "product, gradients",
            "products: first reading, next",
            "next reading, gradients",
        ],
        rows,
    )
    large = results.get("large")
    if large is None:
        return text
    if "failed" in large:
        return f"{text}\n\nGPT of 124 million parameters: failed: {large['failed']}"
    return (
        f"{text}\n\nGPT of {large['parameters'] / 1e6:.0f} million parameters, 2 sequences of 128 "
        f"tokens, SGD: sharpness and step in {large['seconds']:.0f} s "
        f"({large['seconds'] / large['gradient']:.0f} gradients, {large['products']} products), "
        f"peak {large['peak'] / GIB:.1f} GiB, {large['base'] / GIB:.1f} GiB of it before training "
        f"(a vector of the weights' size is {4 * large['parameters'] / GIB:.2f} GiB)."
    )


def large() -> dict[str, Any]:
    """One reading of sharpness and of a step of a GPT-2-small; runs in a child."""
    # what is reserved may be more than what is used
    limit_memory(1.25 * MOST_MEMORY * GIB)
    task = _task(vocabulary=50257, width=768, layers=12, heads=12, context=1024, tied=True)
    batch = random_tokens(50257, batch=2, length=128)
    started()
    gradient = gradient_seconds(task, batch, times=1)
    monitor = CurvatureMonitor([Sharpness(), StepGeometry()], every_n_steps=1, on_error="raise")
    begin = time.process_time()
    with counting() as counts:
        fit(task, [batch], monitor)
    history = monitor.history
    return {
        "parameters": sum(p.numel() for p in task.parameters()),
        "gradient": gradient,
        # one gradient is training's own
        "seconds": time.process_time() - begin - gradient,
        "products": counts.products,
        "sharpness": float(history["curvature/sharpness"].values[-1]),
        "residual": float(history["curvature/residual"].values[-1]),
        "directional_sharpness": float(history["step/directional_sharpness"].values[-1]),
    }


def _task(vocabulary: int = VOCABULARY, **sizes: Any) -> Task:
    torch.manual_seed(0)
    net = GPT(vocabulary, **sizes)
    return Task(net, lambda p: torch.optim.SGD(p, lr=0.1))


def _read(*, width: int, sequences: int) -> dict[str, Any]:
    task = _task(width=width, layers=4, heads=width // 32)
    batch = random_tokens(VOCABULARY, batch=sequences, length=64)
    optimizer = task.configure_optimizers()
    memory: dict[str, Any] = {}
    _, first = _sharpness(task, batch, optimizer, memory)
    for _ in range(STEPS_BETWEEN):
        optimizer.zero_grad()
        task.training_step(batch).backward()
        optimizer.step()
    seconds, products = _sharpness(task, batch, optimizer, memory)
    with Objective(task, task.training_step, [RecordedBatch(batch)]).open() as f:
        point = f.linearize()
        v = torch.nn.functional.normalize(torch.randn_like(point.gradient), dim=0)
        product = seconds_of(lambda: point.product(v), times=5)
    return {
        # the embeddings are looked up, not multiplied with
        "parameters": sum(p.numel() for p in task.parameters()),
        "tokens": sequences * 64,
        "gradient": gradient_seconds(task, batch, times=5),
        "product": product,
        "first_products": first,
        "products": products,
        "reading": seconds,
    }


def _sharpness(
    task: Task, batch: Batch, optimizer: torch.optim.Optimizer, memory: dict[str, Any]
) -> tuple[float, int]:
    """Seconds and products of one reading."""
    weights: list[Tensor] = list(task.parameters())
    law = stability_law(optimizer, weights)
    generator = torch.Generator().manual_seed(0)
    begin = time.process_time()
    with (
        counting() as counts,
        Objective(task, task.training_step, [RecordedBatch(batch)]).open() as opened,
    ):
        Sharpness().read(Landscape(opened, [0.1] * len(weights), law, memory, generator))
    return time.process_time() - begin, counts.products


def _slope(rows: list[dict[str, Any]], against: str, what: str) -> float:
    """Of the logarithms, by least squares; a reading's time is told for one product."""
    x = np.log([row[against] for row in rows])
    y = np.log([row[what] / (row["products"] if what == "reading" else 1) for row in rows])
    return float(np.polyfit(x, y, 1)[0])
