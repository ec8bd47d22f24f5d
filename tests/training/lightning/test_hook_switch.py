"""Hooks that the Trainer calls only while they are needed."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest

from curvwatch import CurvatureMonitor
from tests.support.modules import Classifier, batches, fit

PER_STEP = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)


class Looks(L.Callback):
    """Which hooks of the monitor the Trainer would call, and the optimizer's own, at each step."""

    def __init__(self, monitor: CurvatureMonitor) -> None:
        self.monitor = monitor
        self.called: list[set[str]] = []
        self.on_optimizer: list[int] = []

    def on_before_zero_grad(self, trainer: Any, module: Any, optimizer: Any) -> None:
        self.called.append({name for name in PER_STEP if callable(getattr(self.monitor, name))})
        hooks = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
        self.on_optimizer.append(sum(map(len, hooks)))


def test_a_step_without_a_reading_has_no_hook_but_the_last() -> None:
    monitor = CurvatureMonitor(every_n_steps=4)
    looks = Looks(monitor)
    trainer = fit(Classifier(), monitor, looks, data=batches(40), max_steps=10)
    assert trainer.global_step == 10
    at_readings = {"on_before_backward", "on_before_optimizer_step"}
    expected = [at_readings if t % 4 == 0 else set() for t in range(10)]
    assert looks.called == expected
    assert looks.on_optimizer == [2 if t % 4 == 0 else 0 for t in range(10)]
    # afterwards it is as it was
    assert not [name for name in PER_STEP if name in vars(monitor)]


def test_a_hook_of_a_subclass_is_always_called() -> None:
    calls = []

    class Mine(CurvatureMonitor):
        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            calls.append("after")

        def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
            super().on_before_backward(trainer, pl_module, loss)
            calls.append("before")

    monitor = Mine(every_n_steps=4)
    fit(Classifier(), monitor, data=batches(40), max_steps=10)
    assert calls == ["before", "after"] * 10
    assert monitor.history["curvature/sharpness"].steps.tolist() == [0, 4, 8]


def test_hooks_come_back_where_a_run_ends_by_an_error() -> None:
    class Fails(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 3:
                raise RuntimeError("ends here")
            return super().training_step(batch, batch_idx)

    monitor = CurvatureMonitor(every_n_steps=2)
    with pytest.raises(RuntimeError, match="ends here"):
        fit(Fails(), monitor, data=batches(40))
    assert all(callable(getattr(monitor, name)) for name in PER_STEP)
