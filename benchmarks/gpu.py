"""On a GPU: which steps synchronise, and what makes a product cheaper. Without one it says so."""

from __future__ import annotations

import gc
import statistics
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from rich.progress import Progress
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.report import Check, markdown_table
from benchmarks.trainers import fit
from benchmarks.workloads import WORKLOADS, Batch, Task, Workload
from curvwatch import CurvatureMonitor, Objective
from curvwatch.objective.samples import RecordedBatch

TITLE = "GPU"
STEPS, EVERY = 40, 10
TIMES = 30


def run(progress: Progress, *, quick: bool) -> dict[str, Any]:
    """Synchronisations by the monitor, its memory, and times of products; empty without a GPU."""
    if not torch.cuda.is_available():
        return {}
    names = ("mlp",) if quick else tuple(WORKLOADS)
    bar = progress.add_task(TITLE, total=len(names))
    results = {}
    for name in names:
        workload = WORKLOADS[name]
        batch = workload.batch(torch.Generator().manual_seed(1), workload.batch_size)
        on_device = (batch[0].cuda(), batch[1].cuda())
        results[name] = {
            "device": torch.cuda.get_device_name(),
            **_synchronisations(workload, on_device),
            "memory": _memory(workload),
            **_products(workload.task().cuda(), on_device),
        }
        progress.advance(bar)
    return results


def checks(results: dict[str, Any]) -> Iterator[Check]:
    """No synchronisation that is the monitor's in steps without a reading."""
    for name, one in results.items():
        label = WORKLOADS[name].label
        yield Check(
            f"{label}: synchronisations in a step without a reading",
            one["with"] - one["without"],
            0.0,
        )
        ratio = one["memory"]["with"] / one["memory"]["without"]
        what = f"{label}, batch of {one['memory']['batch']}: allocator's peak over a training step's"
        yield Check(what, ratio, 1.3)


def markdown(results: dict[str, Any]) -> str:
    """One row a network."""
    if not results:
        return "No GPU was at hand: `python -m benchmarks gpu` where there is one fills this table."
    columns = ("gradient", "eager", "CUDA graph", "compiled")
    rows = [
        [
            WORKLOADS[name].label,
            *(_written(one["milliseconds"][c]) for c in columns),
            f"{one['with']:.2f}, {one['without']:.2f}",
            f"{one['at a reading']:.0f}",
            ", ".join(f"{one['memory'][what] / 2**20:,.0f}" for what in ("with", "without")),
        ]
        for name, one in results.items()
    ]
    heads = [columns[0], *(f"product {c}" for c in columns[1:])]
    synchronisations = ["synchronisations a step with the monitor, without", "at a reading"]
    memory = "peak MiB with readings, without"
    return markdown_table(["milliseconds", *heads, *synchronisations, memory], rows)


def _written(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3f}"


class _Synchronisations(L.Callback):
    """How many times each step waited for the device, as torch's debug mode warns.

    Attributes:
        seen: of each step, callbacks before and after it included.
    """

    def __init__(self) -> None:
        self.seen: list[int] = []
        self._caught: list[Any] = []
        self._context = warnings.catch_warnings(record=True)

    def on_train_start(self, *_: Any) -> None:
        """Count from here."""
        self._caught = self._context.__enter__() or []
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")

    def on_train_batch_start(self, *_: Any) -> None:
        """A step begins: what was seen is of the last one."""
        self.seen.append(sum("synchroniz" in str(w.message) for w in self._caught))
        self._caught.clear()

    def on_train_end(self, *_: Any) -> None:
        """Count no more."""
        torch.cuda.set_sync_debug_mode("default")
        self._context.__exit__(None, None, None)


def _synchronisations(workload: Workload, batch: Batch) -> dict[str, float]:
    seen = {}
    for what in ("with", "without"):
        counter = _Synchronisations()
        callbacks: list[L.Callback] = [counter]
        if what == "with":
            callbacks.append(CurvatureMonitor(every_n_steps=EVERY, on_error="raise"))
        try:
            fit(workload.task("adam"), [batch] * STEPS, *callbacks, accelerator="gpu")
        finally:
            torch.cuda.set_sync_debug_mode("default")
        seen[what] = counter.seen[1:]  # of steps 0, 1, ...
    quiet = [i for i in range(EVERY, STEPS - 1) if i % EVERY]
    return {
        **{what: statistics.mean(s[i] for i in quiet) for what, s in seen.items()},
        "at a reading": statistics.mean(seen["with"][EVERY : STEPS - 1 : EVERY]),
    }


def _memory(workload: Workload) -> dict[str, int]:
    """The allocator's peak bytes in three steps, at a batch whose activations outweigh the weights."""
    size = 16 * workload.batch_size
    batch = workload.batch(torch.Generator().manual_seed(1), size)
    peaks = {}
    for what in ("without", "with"):
        monitor = CurvatureMonitor(every_n_steps=1, on_error="raise")
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        callbacks = [monitor] if what == "with" else []
        fit(workload.task("adam"), [batch] * 3, *callbacks, accelerator="gpu")
        peaks[what] = torch.cuda.max_memory_allocated() - before
    return {**peaks, "batch": size}


def _products(task: Task, batch: Batch) -> dict[str, Any]:
    weights = [p for p in task.parameters() if p.requires_grad]
    with (
        sdpa_kernel(SDPBackend.MATH),
        Objective(task, task.training_step, [RecordedBatch(batch)]).open() as f,
    ):
        point = f.linearize()
        v = torch.nn.functional.normalize(torch.randn_like(point.gradient), dim=0)
        eager = _milliseconds(lambda: point.product(v))
    times: dict[str, float | str] = {
        "gradient": _milliseconds(lambda: torch.autograd.grad(task.training_step(batch), weights)),
        "eager": eager,
    }
    for name, make in (("CUDA graph", _as_graph), ("compiled", _as_compiled)):
        times[name] = _tried(make, task, batch, v)
    return {"milliseconds": times}


def _tried(make: Callable[..., Callable[[], Any]], *of: Any) -> float | str:
    try:
        with sdpa_kernel(SDPBackend.MATH):
            return _milliseconds(make(*of))
    except Exception as error:
        return f"failed: {type(error).__name__}"


def _as_graph(task: Task, batch: Batch, v: Tensor) -> Callable[[], Any]:
    """Gradient and product anew, recorded once: a kept graph cannot be replayed at other weights."""
    weights = [p for p in task.parameters() if p.requires_grad]
    parts = [p.view_as(w) for p, w in zip(v.split([w.numel() for w in weights]), weights, strict=True)]

    def product() -> tuple[Tensor, ...]:
        gradient = torch.autograd.grad(task.training_step(batch), weights, create_graph=True)
        return torch.autograd.grad(gradient, weights, parts)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            product()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        product()
    return graph.replay


def _as_compiled(task: Task, batch: Batch, v: Tensor) -> Callable[[], Any]:
    """Forward over reverse: torch.compile has no double backward."""
    weights = {name: p.detach() for name, p in task.net.named_parameters()}
    sizes = [w.numel() for w in weights.values()]
    parts = {
        name: part.view_as(w) for (name, w), part in zip(weights.items(), v.split(sizes), strict=True)
    }
    x, y = batch

    def loss(values: dict[str, Tensor]) -> Tensor:
        logits = torch.func.functional_call(task.net, values, (x,))
        return torch.nn.functional.cross_entropy(logits, y.flatten())

    def product() -> Any:
        return torch.func.jvp(torch.func.grad(loss), (weights,), (parts,))[1]

    compiled = torch.compile(product)
    compiled()
    return compiled


def _milliseconds(call: Callable[[], Any]) -> float:
    """The median of CUDA events."""
    taken = []
    for _ in range(TIMES):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end))
    return float(statistics.median(taken))
