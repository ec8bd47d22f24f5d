"""Measures that are not asked for: none is made, read or hooked in, and none costs anything."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules import module as internals

import curvwatch
from curvwatch import CurvatureMonitor, Watch
from curvwatch.measures import DEFAULT_MEASURES, MEASURES
from curvwatch.measures.presets import PRESETS
from curvwatch.objective.outputs.forward_recorder import ForwardRecorder
from curvwatch.objective.outputs.loss_calls import LossCallRecorder
from curvwatch.objective.outputs.output_graph import OutputGraphs
from tests.support.modules import Classifier, batches, fit, mlp

STEPS = 5
FURTHER = [m for m in MEASURES.values() if m not in DEFAULT_MEASURES]
# what further measures watch a forward pass by
WATCHES = [ForwardRecorder, LossCallRecorder, OutputGraphs]
PASSES: Counter[str] = Counter()
PACKAGE = Path(curvwatch.__file__).parent


@pytest.fixture(autouse=True)
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts all passes, those of readings and of training."""
    PASSES.clear()
    grad, backward = torch.autograd.grad, Tensor.backward

    def counted_grad(outputs: Any, inputs: Any, grad_outputs: Any = None, **options: Any) -> Any:
        PASSES["gradients" if grad_outputs is None else "products"] += 1
        return grad(outputs, inputs, grad_outputs, **options)

    def counted_backward(self: Tensor, *args: Any, **options: Any) -> None:
        PASSES["backward"] += 1
        backward(self, *args, **options)

    monkeypatch.setattr(torch.autograd, "grad", counted_grad)
    monkeypatch.setattr(Tensor, "backward", counted_backward)


def hooks() -> int:
    """Global hooks on modules, and modes that see every function of torch."""
    of_modules = [v for k, v in vars(internals).items() if k.startswith("_global_") and "hooks" in k]
    assert len(of_modules) >= 4
    return sum(len(h) for h in of_modules if isinstance(h, dict)) + torch._C._len_torch_function_stack()


class Looks(Classifier):
    """Counts its training steps, of readings too, and looks for hooks in each."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(mlp(dropout=0.2))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        PASSES["forwards"] += 1
        PASSES["hooks"] += hooks()
        return super().training_step(batch, batch_idx)


@pytest.fixture
def _without_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that belongs to further measures breaks when it is touched."""

    def touched(self: Any, *args: Any, **options: Any) -> None:
        raise AssertionError(f"{type(self).__name__} is not asked for")

    for owner in (*FURTHER, *WATCHES):
        monkeypatch.setattr(owner, "__init__", touched)
    for measure in FURTHER:
        for method in ("read", "metrics_of"):
            monkeypatch.setattr(measure, method, touched)


def monitors() -> Iterator[CurvatureMonitor]:
    for budget in ({"every_n_steps": 1}, {"budget": 0.9}):
        yield CurvatureMonitor(on_error="raise", **budget)
        yield CurvatureMonitor.preset("watch", on_error="raise", **budget)


@pytest.mark.usefixtures("_without_others")
def test_a_run_with_the_default_measures_touches_no_other() -> None:
    assert len(FURTHER) == len(MEASURES) - 2
    for monitor in monitors():
        fit(Looks(), monitor, data=batches(4 * STEPS))
        assert {type(m) for m in monitor.measures} == set(DEFAULT_MEASURES)
        assert len(monitor.history)
        assert set(monitor._session.reader.state_dict()) <= {m.name for m in DEFAULT_MEASURES}
    assert PASSES["forwards"] > 4 * STEPS  # it looked during readings, too
    assert PASSES["hooks"] == 0


@pytest.mark.usefixtures("_without_others")
def test_nor_does_a_loop() -> None:
    torch.manual_seed(0)
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def loss_fn(net: Any, batch: Any) -> Tensor:
        PASSES["hooks"] += hooks()
        return F.cross_entropy(net(batch[0]), batch[1])

    with Watch(net, optimizer, loss_fn, every_n_steps=1, on_error="raise") as watch:
        for batch in batches(8):
            loss_fn(net, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            watch.step(batch)
    assert watch.history["curvature/sharpness"].values[0] > 0
    assert PASSES["hooks"] == 0


def test_hooks_would_be_seen() -> None:
    fit(Looks(), CurvatureMonitor(["activation_sparsity"], every_n_steps=1), data=batches(4))
    assert PASSES["hooks"] > 0


def test_sharpness_alone_costs_a_forward_pass_a_gradient_and_its_products() -> None:
    """Counted from outside, and the same as the monitor tells."""
    # with a chunk size no reading is spent on finding one
    monitor = CurvatureMonitor(["sharpness"], every_n_steps=1, chunk_size=4, on_error="raise")
    fit(Looks(), monitor, data=batches(4 * STEPS))
    products = int(monitor.history["curvature/cost_hvps"].values.sum())
    # the graph of the probe is made once a reading
    expected = {
        "forwards": STEPS + STEPS,
        "backward": STEPS,
        "gradients": STEPS,
        "products": products,
        "hooks": 0,
    }
    assert dict(PASSES) == expected


@pytest.mark.parametrize("measures", [["sharpness"], None])
def test_it_costs_the_same_where_the_others_do_not_exist(
    measures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    for known in (dict(MEASURES), {m.name: m for m in DEFAULT_MEASURES}):
        monkeypatch.setattr("curvwatch.measures.MEASURES", known)
        PASSES.clear()
        monitor = CurvatureMonitor(measures, every_n_steps=1, on_error="raise")
        fit(Looks(), monitor, data=batches(4 * STEPS))
        counts.append((dict(PASSES), monitor.history["curvature/cost_hvps"].values.tolist()))
    assert counts[0] == counts[1]
    assert sum(counts[0][1]) > STEPS


def test_none_has_a_flag_of_its_own() -> None:
    """A preset is a list of names and options, and a new measure is in the largest one by itself."""
    assert list(PRESETS["everything"].measures) == list(MEASURES)
    assert list(PRESETS["watch"].measures) == [m.name for m in DEFAULT_MEASURES]


@pytest.mark.parametrize(
    "path",
    [
        path
        for part in ("measures", "operators", "solvers")
        for path in sorted((PACKAGE / part).glob("*.py"))
    ],
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_importing_a_measure_imports_torch_and_numpy_alone(path: Path) -> None:
    """All are imported with the package; what else one needs it imports when it is read."""
    allowed = {"curvwatch", "torch", "numpy", *sys.stdlib_module_names}
    for node in ast.parse(path.read_text()).body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert {name.partition(".")[0] for name in names} <= allowed
