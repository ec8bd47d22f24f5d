"""Pan & Li (2023): which steps go along flat directions of a character transformer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from benchmarks.workloads import GPT, WORKLOADS, Task
from curvwatch import CurvatureMonitor, StepGeometry
from tests.support.modules import fit

pytestmark = pytest.mark.study
NAMES = ["momentum", "normalized_sgd", "adam", "clipped_sgd", "clipped_adam"]
BATCH, STEPS, EVERY = 16, 240, 10


def sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.1, momentum=0.9)


def adam(params: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr=1e-3)


@pytest.mark.parametrize("optimizer", [sgd, adam], ids=["moved by SGD", "moved by Adam"])
def test_adaptive_and_clipped_steps_are_flatter(optimizer: Any) -> None:
    """Ratios of directional sharpness to SGD with momentum, at the same points, medians."""
    text = WORKLOADS["gpt"]
    generator = torch.Generator().manual_seed(0)
    data = [text.batch(generator, BATCH) for _ in range(STEPS)]
    torch.manual_seed(0)
    net = GPT(text.net().head.out_features, width=64, layers=2)
    monitor = CurvatureMonitor([StepGeometry(compare=NAMES)], every_n_steps=EVERY, on_error="raise")
    fit(Task(net, optimizer), monitor, data=DataLoader(data, batch_size=None), max_steps=STEPS)

    sharpness = {n: monitor.history[f"step/{n}/directional_sharpness"].values for n in NAMES}
    ratio = {n: float(np.median(v / sharpness["momentum"])) for n, v in sharpness.items()}
    print(ratio)
    assert ratio["clipped_adam"] < 0.9 * ratio["adam"]
    assert ratio["adam"] < 0.5
    assert ratio["clipped_sgd"] < 0.6
    assert ratio["normalized_sgd"] < 0.9
    # low is no merit by itself: all of them go downhill
    for n in NAMES:
        assert np.median(monitor.history[f"step/{n}/gradient_cosine"].values) < -0.1
