"""Cost and error of the largest eigenvalue along six runs: curvwatch and its peers.

Every tool reads the same weights, on the same batch, in the same process, right after one another.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from benchmarks.counting import Counts, counting
from benchmarks.peers import PEERS, Peer
from benchmarks.report import Check, markdown_table, percent
from benchmarks.timing import gradient_seconds
from benchmarks.workloads import OPTIMIZER_LABELS, WORKLOADS, Batch, Task
from curvwatch import Objective, Sharpness, StabilityLaw, stability_law
from curvwatch.measures import Landscape
from curvwatch.objective.samples import RecordedBatch
from curvwatch.operators import Scaled, SymmetricOperator, hessian, unit
from curvwatch.solvers import lanczos

TITLE = "Sharpness while tracking"
EVERY = 20
STEPS = {"mlp": 800, "cnn": 800, "gpt": 400}
# a peer knows nothing of its last reading, so a part of the readings shows all of it
PEERS_EVERY = {"mlp": 2, "cnn": 5, "gpt": 5}
COST, TYPICAL, WORST = 8.0, 0.01, 0.03
CROSSED = 0.5


def run(progress: Progress, *, quick: bool) -> dict[str, Any]:
    """Cost and errors of every tool at every reading of each run."""
    names = ("mlp",) if quick else tuple(WORKLOADS)
    runs = {}
    for name in names:
        for optimizer in OPTIMIZER_LABELS:
            steps = 200 if quick else STEPS[name]
            runs[f"{name} {optimizer}"] = _run(name, optimizer, steps, progress)
    return {"missing": {k: reason for k, p in PEERS.items() if (reason := p.missing())}, "runs": runs}


def checks(results: dict[str, Any]) -> Iterator[Check]:
    """The bounds on cost and error, for each run."""
    for key, one in results["runs"].items():
        label, ours = _label(key), one["tools"]["curvwatch"]
        counted = float(np.mean(ours["gradients"][1:]))
        seconds = float(np.median(ours["seconds"][1:]))
        note = f"{seconds:.1f} by time"
        yield Check(f"{label}: gradients a reading", counted, COST, written="{:.1f}".format, note=note)
        for which in ("plain", "effective"):
            errors = np.array(ours["errors"][which][1:])
            if len(errors):
                suffix = "" if which == "plain" else ", effective"
                typical, worst = float(np.quantile(errors, 0.95)), float(errors.max())
                yield Check(f"{label}: error at 95 %{suffix}", typical, TYPICAL, written=percent)
                yield Check(f"{label}: worst error{suffix}", worst, WORST, written=percent)


def markdown(results: dict[str, Any]) -> str:
    """One row a run and tool."""
    rows = []
    for key, one in results["runs"].items():
        where = f"{_label(key)}, {one['crossings']} crossings"
        where = where.replace(" 1 crossings", " 1 crossing")
        for tool, values in one["tools"].items():
            rows += _rows(where, tool, values)
        for tool, reason in results["missing"].items():
            rows.append([where, PEERS[tool].label, reason])
    head = ["run", "tool", "gradients, counted", "by time", "error: median", "95 %", "worst"]
    return markdown_table(head, rows)


def _rows(where: str, tool: str, values: dict[str, Any]) -> list[list[str]]:
    label = "curvwatch" if tool == "curvwatch" else PEERS[tool].label
    if values["failed"]:
        return [[where, label, f"failed: {values['failed']}"]]
    cost = f"{np.mean(values['gradients'][1:]):.1f}"
    seconds = f"{np.median(values['seconds'][1:]):.1f}"
    rows = []
    for which, errors in values["errors"].items():
        if errors:
            e = np.array(errors[1:])
            name = label if which == "plain" else f"{label}, effective"
            costs = [cost, seconds] if which == "plain" else ["the same reading", ""]
            figures = [percent(np.median(e)), percent(np.quantile(e, 0.95)), percent(e.max())]
            rows.append([where, name, *costs, *figures])
    return rows


def _label(key: str) -> str:
    name, optimizer = key.split()
    return f"{WORKLOADS[name].label}, {OPTIMIZER_LABELS[optimizer]}"


@dataclass
class _Record:
    """What one tool read in one run."""

    steps: list[int] = field(default_factory=list)
    gradients: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    errors: dict[str, list[float]] = field(default_factory=lambda: {"plain": [], "effective": []})
    failed: str = ""


def _run(name: str, optimizer_name: str, steps: int, progress: Progress) -> dict[str, Any]:
    """Train; at every reading let each tool read the weights before the step."""
    workload = WORKLOADS[name]
    task = workload.task(optimizer_name)
    looked_at = copy.deepcopy(task)
    optimizer = task.configure_optimizers()
    weights = list(task.parameters())
    draws = torch.Generator().manual_seed(1)
    probe = workload.batch(draws, workload.batch_size)
    bar = progress.add_task(f"{workload.label} {optimizer_name}", total=steps + 1)
    records = {tool: _Record() for tool in ("curvwatch", *PEERS)}
    ours, truth = _Monitor(), _Reference()
    for step in range(steps + 1):
        batch = workload.batch(draws, workload.batch_size) if step else probe
        optimizer.zero_grad()
        task.training_step(batch).backward()
        due = step % EVERY == 0
        if due:
            looked_at.load_state_dict(task.state_dict())
        optimizer.step()
        if due:
            law = stability_law(optimizer, weights)
            rates = [workload.rates[optimizer_name]] * len(weights)
            reading = step // EVERY
            exact = truth.read(looked_at, probe, law, thorough=reading % 4 == 0)

            read = partial(ours.read, law=law, rates=rates, step=step)
            _note(records["curvwatch"], step, read, looked_at, probe, exact)
            if reading % PEERS_EVERY[name] == 0:
                for tool, peer in PEERS.items():
                    if peer.missing() or records[tool].failed:
                        continue
                    solve = partial(_solved, peer, step=step)
                    _note(records[tool], step, solve, looked_at, probe, exact)
        progress.advance(bar)
    progress.remove_task(bar)
    return {
        "crossings": truth.crossings,
        "reference_error": float(f"{truth.error:.2g}"),
        "tools": {tool: vars(r) for tool, r in records.items() if r.steps or r.failed},
    }


def _note(
    record: _Record,
    step: int,
    read: Callable[[Task, Batch, Counts], dict[str, float]],
    task: Task,
    probe: Batch,
    exact: dict[str, float],
) -> None:
    """Add one reading: what it cost in gradients, counted and timed, and how far it is off."""
    before = gradient_seconds(task, probe)
    try:
        with counting() as counts:
            begin = time.process_time()
            values = read(task, probe, counts)
            seconds = time.process_time() - begin
    except Exception as error:
        record.failed = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
        return
    gradient = (before + gradient_seconds(task, probe)) / 2
    record.steps.append(step)
    record.gradients.append(round(counts.cost, 2))
    record.seconds.append(float(f"{seconds / gradient:.4g}"))
    for which, value in values.items():
        record.errors[which].append(float(f"{abs(value / exact[which] - 1):.3g}"))


def _solved(peer: Peer, task: Task, probe: Batch, counts: Counts, *, step: int) -> dict[str, float]:
    return {"plain": peer.read(task, probe, seed=step, counts=counts)}


class _Monitor:
    """Sharpness as the monitor reads it, with its memory."""

    def __init__(self) -> None:
        self._measure = Sharpness()
        self._memory: dict[str, Any] = {}

    def read(
        self,
        task: Task,
        probe: Batch,
        counts: Counts,
        *,
        law: StabilityLaw,
        rates: list[float],
        step: int,
    ) -> dict[str, float]:
        objective = Objective(task, task.training_step, [RecordedBatch(probe)])
        generator = torch.Generator().manual_seed(step)
        with objective.open() as opened:
            values = self._measure.read(Landscape(opened, rates, law, self._memory, generator)).values
        read = {"plain": values["curvature/sharpness"]}
        if not law.is_identity:
            read["effective"] = values["curvature/effective_sharpness"]
        return read


class _Reference:
    """Eigenvalues by Lanczos to a residual of 1e-3, so to some 1e-5.

    Warm starts from four vectors at every reading, and cold ones at some: the largest counts.

    Attributes:
        crossings: how often the leading eigenvector was another one than at the last reading.
        error: the largest relative error that a solve told of itself.
    """

    def __init__(self) -> None:
        self._last: dict[str, Tensor] = {}
        self.crossings = 0
        self.error = 0.0

    def read(self, task: Task, probe: Batch, law: StabilityLaw, *, thorough: bool) -> dict[str, float]:
        values = {}
        with Objective(task, task.training_step, [RecordedBatch(probe)]).open() as opened:
            H = hessian(opened.linearize())
            values["plain"] = self._largest(H, "plain", thorough)
            if not law.is_identity:
                P = torch.cat([p.reshape(-1) for p in law.preconditioner if p is not None])
                scaled = Scaled(H, P.to(H.dtype).rsqrt())
                values["effective"] = self._largest(scaled, "effective", thorough)
        return values

    def _largest(self, operator: SymmetricOperator, which: str, thorough: bool) -> float:
        generator = torch.Generator().manual_seed(0)
        last = self._last.get(which)
        starts: list[Tensor | None] = [None] if thorough or last is None else []
        if last is not None:
            noise = torch.randn(operator.length, generator=generator, dtype=operator.dtype)
            starts.append(unit(operator, last.sum(0)) + 0.1 * unit(operator, noise))
        solved = [
            lanczos(
                operator, also=3, start=s, rtol=1e-3, max_products=200, basis=40, generator=generator
            )
            for s in starts
        ]
        best = max(solved, key=lambda pairs: float(pairs.values[0]))
        self.error = max(self.error, float(best.errors[0] / abs(best.values[0])))
        if last is not None and abs(float(best.vectors[0] @ last[0])) < CROSSED:
            self.crossings += 1
        self._last[which] = best.vectors
        return float(best.values[0])
