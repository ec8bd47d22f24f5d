"""Suffixes of metrics where a run has several optimizers: those of LearningRateMonitor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from lightning.pytorch.callbacks import LearningRateMonitor
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ConstantLR, StepLR

from curvwatch import CurvatureMonitor
from tests.support.modules import Classifier, ListLogger, fit


class Several(Classifier):
    """Optimizers of the classes `kinds`, told apart by their learning rates .001, .002, ...

    Args:
        kinds: their classes.
        schedulers: (index of an optimizer, name or None) of each scheduler.
    """

    automatic_optimization = False

    def __init__(self, kinds: Sequence[Any], schedulers: Sequence[tuple[int, str | None]]) -> None:
        super().__init__(nn.Linear(6, 3))
        self.more = nn.ParameterList([nn.Parameter(self.net.bias.detach().clone()) for _ in kinds])
        self.kinds, self.plan = kinds, schedulers

    def loss(self, batch: Any) -> Any:
        return super().loss(batch) + sum(p.square().sum() for p in self.more)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manual_backward(self.loss(batch))
        for optimizer in self.optimizers():
            optimizer.step()
        self.zero_grad()

    def configure_optimizers(self) -> Any:
        parts = zip(self.kinds, self.more, strict=True)
        optimizers = [kind([p], lr=(i + 1) * 1e-3) for i, (kind, p) in enumerate(parts)]
        schedulers = [
            {"scheduler": ConstantLR(optimizers[i], factor=1.0), "name": name, "interval": "step"}
            for i, name in self.plan
        ]
        return optimizers, schedulers


class OtherAdam(Adam):
    """Another class."""


@pytest.mark.parametrize(
    ("kinds", "schedulers"),
    [
        ((SGD, Adam), []),
        ((Adam, Adam, SGD, Adam), []),
        ((Adam, Adam), [(0, None)]),
        ((Adam, Adam), [(1, None)]),
        ((Adam, SGD, Adam, Adam), [(3, None), (1, None), (2, None)]),
        ((Adam, Adam), [(0, None), (1, None)]),
        ((Adam, Adam), [(1, "mine")]),
        ((Adam, Adam, Adam), [(1, "mine"), (2, None)]),
        ((Adam, OtherAdam, Adam), [(1, None)]),
    ],
)
def test_suffixes_are_those_of_learning_rate_monitor(
    kinds: Sequence[Any], schedulers: list[tuple[int, str | None]]
) -> None:
    logger = ListLogger()
    monitor = CurvatureMonitor(["sharpness"], every_n_steps=1, on_error="raise")
    module = Several(kinds, schedulers)
    fit(module, monitor, LearningRateMonitor(), logger=logger, max_steps=len(kinds))
    ours = {
        # edge = 2 / lr
        round(2 / monitor.history[name].values[0], 9): name.removeprefix("curvature/edge")
        for name in monitor.history
        if name.startswith("curvature/edge-")
    }
    rows = {k: v for _, metrics in logger.rows for k, v in metrics.items()}
    theirs = {
        round(value, 9): "-" + name.removeprefix("lr-")
        for name, value in rows.items()
        if name.startswith("lr-") or name.startswith("mine")
    }
    assert len(ours) == len(kinds)
    assert ours == theirs


def test_two_schedulers_of_one_optimizer_give_it_its_first_name() -> None:
    monitor = CurvatureMonitor(["sharpness"], every_n_steps=1, on_error="raise")
    fit(Several((Adam, Adam), [(1, None), (1, None)]), monitor, max_steps=2)
    edges = {name: monitor.history[name].values[0] for name in monitor.history if "/edge-" in name}
    assert edges == pytest.approx({"curvature/edge-Adam": 1000, "curvature/edge-Adam-2": 2000})


def test_names_that_are_equal_get_numbers() -> None:
    monitor = CurvatureMonitor(["sharpness"], every_n_steps=1, on_error="raise")
    fit(Several((Adam, SGD), [(0, "mine"), (1, "mine")]), monitor, max_steps=2)
    assert {"curvature/edge-mine", "curvature/edge-mine-1"} <= set(monitor.history)


def test_one_optimizer_has_no_suffix() -> None:
    class Scheduled(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = Adam(self.parameters())
            return [optimizer], [{"scheduler": StepLR(optimizer, 1), "name": "mine"}]

    monitor = CurvatureMonitor(["sharpness"], every_n_steps=1, on_error="raise")
    fit(Scheduled(), monitor, max_steps=1)
    assert "curvature/edge" in monitor.history
    assert not [name for name in monitor.history if "-" in name or "mine" in name]
