"""The benchmarks' counting, verdicts and page; what they measure is not looked at here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import __main__ as command
from benchmarks import gpu, memory
from benchmarks.counting import CountedLoss, counting
from benchmarks.report import Check, between
from benchmarks.workloads import WORKLOADS
from curvwatch import Objective
from curvwatch.objective.chunk_size import ChunkSize
from curvwatch.objective.memory import peak_of_process


def test_passes_are_counted_in_gradients():
    net, loss_fn = nn.Linear(3, 4), CountedLoss()
    x, y = torch.randn(6, 3), torch.randint(4, (2, 3))  # targets of sequences
    w = net.weight
    with counting() as counts:
        (g,) = torch.autograd.grad(loss_fn(net(x), y), w, create_graph=True)
        torch.autograd.grad(g, w, torch.ones_like(g))
        loss_fn(net(x), y)
    assert (counts.forwards, counts.gradients, counts.products) == (2, 1, 1)
    assert counts.cost == pytest.approx(1 + 2 + 1 / 3)


def test_what_was_not_measured_is_no_pass():
    assert Check("a", 1.0, most=1.0).passed
    assert not Check("a", 1.01, most=1.0).passed
    assert not Check("a", 0.89, least=0.9).passed
    assert not Check("a", math.nan, most=1.0).passed


def test_a_section_is_written_once_and_then_replaced():
    page = between(between("# Title", "gpu", "old"), "gpu", r"new \1")
    assert "old" not in page
    assert page.count("<!-- gpu -->") == 1
    assert r"new \1" in page


def test_every_workload_has_batches_of_its_examples():
    for workload in WORKLOADS.values():
        x, y = workload.batch(torch.Generator().manual_seed(0), 3)
        assert len(x) == len(y) == 3  # else they cannot be read in parts


def test_a_failed_measurement_is_a_miss_and_is_told():
    peak = {"peak": 2**30, "base": 2**29, "weights": 2**20}
    results = {"mlp 32": {"step": peak, "reading": {"failed": "out of memory"}}}
    (check,) = memory.checks(results)
    assert not check.passed
    assert "out of memory" in memory.markdown(results)


def test_without_a_gpu_the_page_says_so():
    assert list(gpu.checks({})) == []
    assert "No GPU was at hand" in gpu.markdown({})


def test_the_page_is_redrawn_from_the_parts_that_were_measured(tmp_path, monkeypatch):
    peak = {"peak": 2**30, "base": 2**29, "weights": 2**20}
    pairs = {"mlp 32": {"step": peak, "reading": peak}}
    results = {"machine": "a computer", "gpu": {}, "memory": pairs}
    (tmp_path / "performance.json").write_text(json.dumps(results))
    monkeypatch.setattr("sys.argv", ["benchmarks", "--redraw", "--out", str(tmp_path)])
    threads = torch.get_num_threads()
    try:
        command.main()
    finally:
        torch.set_num_threads(threads)
    page = (tmp_path / "performance.md").read_text()
    assert "a computer" in page
    assert "| MLP, batch of 32: peak over a training step's | 1.00 | <= 1.30 | PASS |" in page


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells it there")
def test_the_peak_of_a_process_is_not_its_parents():
    held = torch.ones(100 * 2**20)
    ask = "import torch, curvwatch.objective.memory as f; print(f.peak_of_process(torch.device('cpu')))"
    child = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    ours = peak_of_process(torch.device("cpu"))
    assert int(child.stdout) < ours - held.nbytes / 2


@pytest.mark.parametrize(("width", "whole"), [(1024, True), (32, False)])
def test_a_batch_is_cut_only_where_its_graph_matters_beside_vectors(monkeypatch, width, whole):
    monkeypatch.setattr("curvwatch.objective.chunk_size.peak_of_process", lambda device: 0)
    net = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
    x, chunking = torch.randn(256, width), ChunkSize()
    objective = Objective.of_batches(net, lambda x: net(x).square().mean(), [x], chunking=chunking)
    with objective.open() as f:
        f.linearize()
    assert (chunking.size == 256) is whole
