"""The demo's data, network and optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import Optimizer

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class DemoRun:
    """One training run.

    Attributes:
        label: for people.
        optimizer: from the parameters to their optimizer.
    """

    label: str
    optimizer: Callable[[Iterable[Tensor]], Optimizer]


# by the name of the run's folder; learning rates at which each reaches its edge at about step 500
RUNS = {
    "sgd": DemoRun("SGD", lambda params: torch.optim.SGD(params, lr=0.2)),
    "sgd-momentum": DemoRun("momentum", lambda params: torch.optim.SGD(params, lr=0.2, momentum=0.9)),
    "adam": DemoRun("Adam", lambda params: torch.optim.Adam(params, lr=1e-3)),
}


def whole_data_set() -> Batch:
    """1797 images of 8x8 pixels, standardised for each pixel, and their one-hot classes."""
    pixels, classes = load_digits(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32)
    # a pixel that is always blank has no deviation
    x = ((x - x.mean(0)) / x.std(0).clamp(min=1e-6)).clamp(-5, 5)
    return x, nn.functional.one_hot(torch.tensor(classes), 10).float()


class DigitsNet(L.LightningModule):
    """64-100-100-10 tanh units, half the squared error, averaged over examples.

    Args:
        optimizer: from the parameters to their optimizer.
    """

    def __init__(self, optimizer: Callable[[Iterable[Tensor]], Optimizer]) -> None:
        super().__init__()
        self._optimizer = optimizer
        self.net = nn.Sequential(
            nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 100), nn.Tanh(), nn.Linear(100, 10)
        )

    def training_step(self, batch: Batch) -> Tensor:
        """The loss of the batch."""
        x, y = batch
        loss: Tensor = (self.net(x) - y).square().sum(1).mean() / 2
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Optimizer:
        """The one that was given."""
        return self._optimizer(self.parameters())
