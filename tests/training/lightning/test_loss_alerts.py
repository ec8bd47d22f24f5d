"""The default alerts over the training loss, in runs with the default arguments."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from curvwatch import CurvatureMonitor
from tests.support.modules import fit


class Net(L.LightningModule):
    """A small network with ReLU units; its loss may be multiplied at one step."""

    def __init__(self, rate: float, *, spike: int | None = None, factor: float = 10.0) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
        )
        self.rate, self.spike, self.factor = rate, spike, factor

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        return self.factor * loss if self.global_step == self.spike else loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.rate)


def data(steps: int) -> Any:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(32 * 20, 16, generator=draws)
    y = (x @ torch.randn(16, 4, generator=draws)).argmax(1)
    few = list(DataLoader(TensorDataset(x, y), batch_size=32))
    return DataLoader([few[t % len(few)] for t in range(steps)], batch_size=None)  # type: ignore[arg-type]


def alerts_of(module: L.LightningModule, steps: int = 300) -> dict[str, int]:
    torch.manual_seed(0)
    monitor = CurvatureMonitor(every_n_steps=20)
    fit(module, monitor, data=data(steps))
    return {alert.rule: alert.step for alert in monitor.alerts}


@pytest.mark.parametrize("rate", [0.001, 0.05, 0.2])
def test_a_healthy_run_is_not_stuck_whether_it_learns_fast_or_slowly(rate: float) -> None:
    assert alerts_of(Net(rate)) == {}


@pytest.mark.parametrize("rate", [10.0, 30.0])
def test_a_network_that_the_learning_rate_killed_is_stuck(rate: float) -> None:
    assert "stuck" in alerts_of(Net(rate))


def test_a_loss_that_jumps_is_an_alert_at_its_step() -> None:
    """No reading is made there."""
    assert alerts_of(Net(0.02, spike=233)).get("loss spike") == 233


def test_one_batch_unlike_others_is_none() -> None:
    assert "loss spike" not in alerts_of(Net(0.02, spike=233, factor=3.5))
