"""Each measure, in a run that is cut in two and resumed: bit for bit as one run in one piece."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from curvwatch import CurvatureMonitor, StepGeometry
from curvwatch.measures import MEASURES, Fisher, GradientSubspace, LayerSignal, Measure
from tests.support.modules import CLASSES, FEATURES, ListLogger, fit
from tests.support.studies import without
from tests.support.trace import assert_same
from tests.training.lightning.test_resume import Noisy, Saver, data, timeless, values

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before"),
    # what a reading says of its own values
    pytest.mark.filterwarnings("ignore:curvwatch. curvature/:curvwatch.CurvwatchWarning"),
]
STEPS, CUT = 4, 2
# so that readings take little of a test's time
CHEAP: dict[str, dict[str, Any]] = {
    "layer_curvature": {"probes": 2, "density_steps": 2},
    "gauss_newton": {"probes": 2},
    "fisher": {"probes": 2},
    "spectral_density": {"probes": 2, "steps": 4},
    "layer_signal": {"probes": 2},
    "gradient_subspace": {"k": 2},
    "top_eigenvalues": {"k": 2},
    "epsilon_sharpness": {"steps": 2},
}
# nothing to read on one batch
OF_SEVERAL = {"batch_sharpness", "gradient_noise"}
# with options by which more is remembered
VARIANTS = {
    "gradient_subspace, lag": lambda: GradientSubspace(k=2, lag=2),
    "fisher, k": lambda: Fisher("type1", k=2, probes=2),
    "step_geometry, secant": lambda: StepGeometry(curvature="secant"),
    "layer_signal, gradient": lambda: LayerSignal(direction="gradient"),
}
REMEMBER = {
    "sharpness",
    "layer_curvature",
    "gradient_subspace",
    "activation_sparsity",
    "gauss_newton",
    "fisher",
    "critical_sharpness",
    "spectral_density",
    "top_eigenvalues",
}


class ByHand(nn.Module):
    """With a ReLU that is found while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop = nn.Linear(FEATURES, 5), nn.Dropout(0.2)
        self.last = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(torch.relu(self.first(x))))


class Module(Noisy):
    def __init__(self) -> None:
        super().__init__()
        self.net = ByHand()


def is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and is_plain(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return type(value) in (Tensor, str, int, float, bool, type(None))


def run(monitor: CurvatureMonitor, logger: ListLogger, *callbacks: Any, **options: Any) -> None:
    torch.manual_seed(0)
    random.seed(0)
    fit(Module(), monitor, *callbacks, data=data(), logger=logger, **options)


# with nothing to go on with, as `step_geometry`; and two that remember more with another option
LIKE_ANOTHER = (
    "gradient_stats",
    "batch_sharpness",
    "gradient_noise",
    "stationary_point",
    "epsilon_sharpness",
    "layer_signal",
    "layer_signal, gradient",
    "step_geometry, secant",
    "gradient_subspace",
    "fisher",
)


@pytest.mark.parametrize("name", without([*MEASURES, *VARIANTS], leave=LIKE_ANOTHER))
def test_a_run_cut_in_two_goes_on_as_one_in_one_piece(name: str, tmp_path: Path) -> None:
    def watch() -> CurvatureMonitor:
        measure = VARIANTS[name]() if name in VARIANTS else MEASURES[name](**CHEAP.get(name, {}))
        batches = 1 + (name in OF_SEVERAL)
        return CurvatureMonitor([measure], every_n_steps=1, probe_batches=batches, on_error="raise")

    whole, log = watch(), ListLogger()
    run(whole, log, max_steps=STEPS)
    logs, path = [ListLogger(), ListLogger()], tmp_path / "cut.ckpt"
    first, second = watch(), watch()
    run(first, logs[0], Saver(path, "on_train_batch_end", at=CUT), max_steps=CUT)
    torch.manual_seed(99)
    fit(Module(), second, data=data(), logger=logs[1], max_steps=STEPS, ckpt_path=path)

    assert_same(timeless(whole), timeless(second), "history")
    assert whole.history.notes == second.history.notes
    assert_same(values(log), values(*logs), "rows")
    # read as PyTorch reads a file that it does not trust
    states = torch.load(path, weights_only=True)["callbacks"]
    (memory,) = (state["memory"] for state in states.values())
    assert is_plain(memory)
    assert_same(memory, first.state_dict()["memory"], "memory")
    (measure,) = whole.measures
    assert bool(memory.get(measure.name)) >= (measure.name in REMEMBER)


def test_all_at_once() -> None:
    """None takes the memory of another."""

    def make(*names: str) -> CurvatureMonitor:
        measures: list[Measure] = [MEASURES[name](**CHEAP.get(name, {})) for name in names]
        monitor = CurvatureMonitor(measures, every_n_steps=1)
        run(monitor, ListLogger(), max_steps=2)
        return monitor

    names = ("sharpness", "fisher", "gauss_newton", "top_eigenvalues")
    histories = [make(name).history.to_dict() for name in names]
    together = make(*names)
    for history in histories:
        for metric in set(history) - {
            "curvature/cost_hvps",
            "curvature/cost_seconds",
            "curvature/cost_share",
        }:
            assert_same(history[metric], together.history.to_dict()[metric], metric)
