"""Manual optimization: the cadence, and steps that are made of several batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from curvwatch import CurvatureMonitor
from tests.support.modules import Classifier, batches, fit, told


class ByHand(Classifier):
    """Makes a step every `group` batches, from the mean of their losses."""

    group = 1

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.automatic_optimization = False
        self.steps: list[dict[str, Any]] = []
        self.seen: list[Any] = []

    def mean_loss(self) -> float:
        with torch.no_grad():
            return float(torch.stack([self.loss(b) for b in self.seen]).double().mean())

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        self.seen.append(batch)
        self.manual_backward(self.loss(batch) / self.group)
        if (batch_idx + 1) % self.group == 0:
            before = self.mean_loss()
            optimizer.step()
            self.steps.append({"batch": batch_idx, "change": self.mean_loss() - before})
            optimizer.zero_grad()
            self.seen = []


def loss_fn(module: Any, batch: Any) -> Any:
    return module.loss(batch)


@pytest.mark.parametrize("every", [1, 4])
def test_a_cadence_is_kept(every: int) -> None:
    monitor = CurvatureMonitor(every_n_steps=every, loss_fn=loss_fn, on_error="raise")
    fit(ByHand(), monitor, data=batches(48))
    due = list(range(0, 12, every))
    assert monitor.history["curvature/sharpness"].steps.tolist() == due
    assert monitor.history["step/loss_change"].steps.tolist() == due


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("group", [2, 3])
def test_a_step_of_several_batches_is_read_on_all_of_them(group: int, every: int) -> None:
    monitor = CurvatureMonitor(every_n_steps=every, loss_fn=loss_fn, on_error="raise")
    module = ByHand().double()
    module.group = group
    fit(module, monitor, data=batches(48), precision="64-true")
    changes = {s["batch"]: s["change"] for s in module.steps}
    steps, values = monitor.history["step/loss_change"]
    assert len(steps) >= (4 if every == 1 else 2)
    assert set(steps.tolist()) <= set(changes)
    np.testing.assert_allclose(values, [changes[s] for s in steps], rtol=1e-9)
    np.testing.assert_allclose(monitor.history["step/gradient_cosine"].values, -1, rtol=1e-9)
    # the landscape is read when it is due, whether or not there is a step
    assert monitor.history["curvature/sharpness"].steps.tolist() == list(range(0, 12, every))


def test_a_loss_fn_that_is_not_what_is_trained_is_noticed() -> None:
    def other(module: Any, batch: Any) -> Any:
        return module.net(batch[0]).square().mean()

    monitor = CurvatureMonitor(["step_geometry"], every_n_steps=1, loss_fn=other)
    with told() as warnings:
        fit(ByHand(), monitor, data=batches(12))
    (warning,) = warnings
    assert "is off by" in warning
