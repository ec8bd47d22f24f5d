"""A run cut in two and resumed logs what one run in one piece logs."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from curvwatch import CurvatureMonitor, Rule
from tests.support.modules import (
    TIMES,
    Classifier,
    ListLogger,
    Validated,
    adam,
    batches,
    examples,
    fit,
    mlp,
    sgd,
    told,
)
from tests.support.studies import only
from tests.support.trace import assert_same

# Lightning cannot wind a loader to the midst of an epoch, so all batches are the same; noise and
# dropout make each step another one
pytestmark = pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")


def data() -> DataLoader:
    # a loader draws a seed at each epoch: from a generator of its own
    same = Subset(examples(4), [0, 1, 2, 3] * 7)
    return DataLoader(same, batch_size=4, generator=torch.Generator())


class Noisy(Classifier):
    """Dropout, and noise from generators of its own, all of which a checkpoint keeps."""

    def __init__(self, optimizer: Any = adam) -> None:
        super().__init__(mlp(dropout=0.3), optimizer)
        self.noise = torch.Generator().manual_seed(1)
        self.more = np.random.default_rng(2)
        self.loaded: dict[str, Any] | None = None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        x = x + 0.1 * torch.randn(x.shape, generator=self.noise) + 0.1 * float(self.more.normal())
        x = x + 0.01 * random.random()
        return super().training_step((x, y), batch_idx)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["random"] = {
            "torch": torch.get_rng_state(),
            "python": random.getstate(),
            "noise": self.noise.get_state(),
            "more": self.more.bit_generator.state,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.loaded = checkpoint["random"]

    def on_train_start(self) -> None:
        if self.loaded is not None:
            torch.set_rng_state(self.loaded["torch"])
            version, state, rest = self.loaded["python"]
            random.setstate((version, tuple(state), rest))
            self.noise.set_state(self.loaded["noise"])
            self.more.bit_generator.state = self.loaded["more"]


def watch(**options: Any) -> CurvatureMonitor:
    return CurvatureMonitor(**{"every_n_steps": 3, **options})


def values(*loggers: ListLogger) -> list[Any]:
    """All rows, in order, without wall times and Lightning's count of epochs, which may shift."""
    return [
        [step, {k: v for k, v in metrics.items() if k not in TIMES | {"epoch"}}]
        for logger in loggers
        for step, metrics in logger.rows
    ]


def timeless(monitor: CurvatureMonitor) -> dict[str, Any]:
    return {k: v for k, v in monitor.history.to_dict().items() if k not in TIMES}


class Saver(pl.Callback):
    """Saves a checkpoint in one hook, once `at` steps were taken, as ModelCheckpoint does: last."""

    def __init__(self, path: Path, hook: str, *, at: int) -> None:
        self.path, self.at = path, at
        setattr(self, hook, self.save)

    def save(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.at:
            trainer.save_checkpoint(self.path)


def cut_in_two(
    path: Path,
    hook: str,
    *,
    at: int,
    make: Any,
    probe: str = "first",
    **options: Any,
) -> None:
    """Compare a run in one piece with one that is saved in `hook` after `at` steps and resumed."""
    log, one = ListLogger(), watch(probe=probe)
    fit(make(), one, data=data(), logger=log, max_steps=12, **options)
    assert one.history["curvature/sharpness"].steps.tolist() == [0, 3, 6, 9]
    assert one.history["step/loss_change"].steps.tolist() == [0, 3, 6, 9]

    logs = [ListLogger(), ListLogger()]
    torch.manual_seed(0)
    random.seed(0)
    saver = Saver(path, hook, at=at)
    fit(make(), watch(probe=probe), saver, data=data(), logger=logs[0], max_steps=at, **options)
    torch.manual_seed(99)
    two = watch(probe=probe)
    fit(make(), two, data=data(), logger=logs[1], max_steps=12, ckpt_path=path, **options)

    assert_same(timeless(one), timeless(two), "history")
    assert one.history.notes == two.history.notes
    assert_same(values(log), values(*logs), "rows")


@pytest.mark.parametrize(
    ("at", "probe", "optimizer"),
    only(
        itertools.product([3, 4, 7], ["first", "current"], [sgd, adam]),
        take=[(3, "current", adam), (4, "first", adam), (7, "first", sgd)],
    ),
)
def test_cut_at_the_end_of_a_batch(tmp_path: Path, at: int, probe: str, optimizer: Any) -> None:
    """With a reading due next, just done, and at the end of an epoch."""
    make = lambda: Noisy(optimizer)  # noqa: E731
    cut_in_two(tmp_path / "cut.ckpt", "on_train_batch_end", at=at, make=make, probe=probe)


@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_train_end"])
def test_cut_at_the_end_of_an_epoch(tmp_path: Path, hook: str) -> None:
    cut_in_two(tmp_path / "cut.ckpt", hook, at=7, make=Noisy)


class NoisyValidated(Noisy, Validated):
    pass


@pytest.mark.parametrize("at", only([4, 7], take=[7]))
def test_cut_at_a_validation(tmp_path: Path, at: int) -> None:
    """In the midst of an epoch, and at its end."""
    options = {"val": batches(8), "make": NoisyValidated, "val_check_interval": at}
    cut_in_two(tmp_path / "cut.ckpt", "on_validation_end", at=at, **options)


def test_where_lightning_shifts_its_own_axis_readings_follow(tmp_path: Path) -> None:
    """With validation, a checkpoint of an epoch's end lets `self.log` go on one step late (2.6)."""
    path, options = tmp_path / "cut.ckpt", {"data": data(), "val": batches(8)}
    fit(NoisyValidated(), watch(), Saver(path, "on_train_epoch_end", at=7), max_steps=7, **options)
    logger, monitor = ListLogger(), watch()
    fit(NoisyValidated(), monitor, logger=logger, max_steps=12, ckpt_path=path, **options)
    steps = logger.steps("train_loss")
    assert steps in (list(range(7, 12)), list(range(8, 13)))
    assert logger.steps("curvature/loss") == [step for step in steps if step % 3 == 0]


def test_a_resumed_run_does_not_fire_again(tmp_path: Path) -> None:
    """An alert that was firing when the run was cut."""
    always = Rule("always", "step/update_norm", above=0, for_readings=1, meaning="for this test")
    calls: list[Any] = []
    options = {"every_n_steps": 1, "rules": [always], "on_alert": calls.append}
    path = tmp_path / "cut.ckpt"
    fit(Noisy(), watch(**options), Saver(path, "on_train_batch_end", at=4), data=data(), max_steps=4)
    assert [a.step for a in calls] == [0]
    two = watch(**options)
    fit(Noisy(), two, data=data(), max_steps=8, ckpt_path=path)
    assert two.alerts == calls
    assert len(calls) == 1


def saved(path: Path, *monitors: CurvatureMonitor, **options: Any) -> dict[str, Any]:
    """A checkpoint after 4 steps, read as PyTorch reads a file that it does not trust."""
    fit(
        Noisy(), *monitors, Saver(path, "on_train_batch_end", at=4), data=data(), max_steps=4, **options
    )
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint["callbacks"]


def test_a_checkpoint_holds_tensors_and_plain_python(tmp_path: Path) -> None:
    monitor = watch()
    (state,) = saved(tmp_path / "cut.ckpt", monitor).values()
    assert state["history"]["series"]["curvature/sharpness"]["steps"] == [0, 3]
    assert state["probe"]["batches"][0][0].shape == (4, 6)

    again = watch()
    again.load_state_dict(state)
    assert_same(again.history.to_dict(), monitor.history.to_dict(), "history")
    assert_same(again.state_dict()["memory"], state["memory"], "memory")


def test_monitors_with_names_keep_apart(tmp_path: Path) -> None:
    """In the Trainer, in the checkpoint, and when it is loaded."""
    path = tmp_path / "cut.ckpt"

    def two() -> list[CurvatureMonitor]:
        return [watch(name="often", every_n_steps=1), watch(name="seldom", measures=["sharpness"])]

    often, seldom = two()
    assert often.state_key != seldom.state_key
    assert len(saved(path, often, seldom)) == 2
    assert often.history["curvature/loss"].steps.tolist() == [0, 1, 2, 3]
    assert seldom.history["curvature/loss"].steps.tolist() == [0, 3]

    resumed = two()
    fit(Noisy(), *resumed, data=data(), max_steps=7, ckpt_path=path)
    assert resumed[0].history["curvature/loss"].steps.tolist() == list(range(7))
    assert resumed[1].history["curvature/loss"].steps.tolist() == [0, 3, 6]


def test_a_budget_goes_on_with_what_it_learnt(tmp_path: Path) -> None:
    path = tmp_path / "cut.ckpt"
    (state,) = saved(path, watch(every_n_steps=None, budget=0.5)).values()
    since = state["interval"]  # the last look, at step 0
    assert since["counts"] == {"landscape": 1, "step": 1}
    assert min(since["timed"].values()) > 0
    assert 0 < state["clock"]["reading"] < state["clock"]["total"]
    resumed = watch(every_n_steps=None, budget=0.5)
    resumed.load_state_dict(state)
    assert resumed.state_dict()["budget"] == state["budget"]
    assert resumed.state_dict()["interval"] == since
    assert resumed.state_dict()["clock"] == pytest.approx(state["clock"])


def test_a_probe_too_large_for_a_checkpoint_is_taken_anew(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("curvwatch.training.probe._LARGEST_SAVED", 10)
    path = tmp_path / "cut.ckpt"
    (state,) = saved(path, watch()).values()
    assert state["probe"] is None
    two = watch()
    with told() as warnings:
        fit(Noisy(), two, data=data(), max_steps=7, ckpt_path=path)
    (warning,) = warnings
    assert "the checkpoint holds no probe" in warning
    assert two.history["curvature/loss"].steps.tolist() == [0, 3, 6]


# one monitor in several calls of fit


def test_fit_twice_with_one_trainer_goes_on() -> None:
    monitor, logger = watch(), ListLogger()
    trainer = fit(Noisy(), monitor, data=data(), logger=logger)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(trainer.lightning_module, data())
    assert monitor.history["curvature/loss"].steps.tolist() == [0, 3, 6, 9, 12]
    assert logger.steps("curvature/loss") == [0, 3, 6, 9, 12]
    assert not any(o._optimizer_step_pre_hooks for o in trainer.optimizers)


def test_another_run_of_the_same_monitor_starts_afresh() -> None:
    """The same as with a new monitor, and the old history stays with who holds it."""
    used, new = watch(), watch()
    torch.manual_seed(5)
    fit(Noisy(adam), used, data=data())
    first = used.history
    before = first.to_dict()
    for monitor in (used, new):
        torch.manual_seed(6)
        random.seed(6)
        fit(Noisy(sgd), monitor, data=data(), max_steps=5)
    assert_same(timeless(used), timeless(new), "history")
    assert used.history is not first
    assert first.to_dict() == before


def test_hooks_are_gone_after_an_exception() -> None:
    class Breaks(Noisy):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 3:
                raise KeyError("mine")

    module, monitor = Breaks(), watch()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module.make_optimizer = lambda _: optimizer
    with pytest.raises(KeyError, match="mine"):
        fit(module, monitor, data=data())
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    fit(Noisy(), monitor, data=data(), max_steps=2)
    assert monitor.history["curvature/loss"].steps.tolist() == [0]
