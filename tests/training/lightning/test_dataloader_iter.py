"""`training_step(dataloader_iter)`: read like `training_step(batch)`."""

from __future__ import annotations

import itertools
from itertools import islice
from typing import Any

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning
import torch
from torch.utils.data import DataLoader, Dataset

from curvwatch import CurvatureMonitor
from tests.support.modules import (
    TIMES,
    Classifier,
    ClassifierMixin,
    ListMixin,
    batches,
    examples,
    fit,
    mlp,
    told,
)
from tests.support.studies import only, without
from tests.support.trace import Witness, assert_same, state_of

# Lightning's own
pytestmark = [
    pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor"),
    pytest.mark.filterwarnings("ignore:Found `dataloader_iter` argument"),
]


class Noisy(Dataset[Any]):
    """Draws random numbers as it is fetched from."""

    def __init__(self, n: int) -> None:
        self.examples = examples(n)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: int) -> Any:
        x, y = self.examples[i]
        return (x + 0.1 * torch.randn_like(x)).double(), y


def loader(n: int = 24) -> DataLoader:
    return DataLoader(Noisy(n), batch_size=4)


class Whole(Classifier):
    """Two forward passes with dropout on one batch, for comparison."""

    def __init__(self) -> None:
        super().__init__(mlp(dropout=0.3))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch) * (1 + batch_idx)


class Fetches(Whole):
    def training_step(self, dataloader_iter: Any) -> Any:
        batch, batch_idx, dataloader_idx = next(dataloader_iter)
        assert dataloader_idx == 0
        return super().training_step(batch, batch_idx)


class FetchesTwo(Whole):
    """A step on two batches, the first of which is changed in place."""

    def training_step(self, dataloader_iter: Any) -> Any:
        draw = torch.rand(())
        first, _, _ = next(dataloader_iter)
        first[0].mul_(0.5)
        loss = self.loss(first) * draw
        second, _, _ = next(dataloader_iter)
        return loss + self.loss(second) * torch.rand(())


class FetchesWhatIsLeft(Whole):
    """Takes four at a time, and fewer at the end."""

    def training_step(self, dataloader_iter: Any) -> Any:
        losses = [self.loss(batch) for batch, _, _ in islice(dataloader_iter, 4)]
        return torch.stack(losses).mean()


class FetchesByHand(Fetches):
    automatic_optimization = False

    def training_step(self, dataloader_iter: Any) -> None:
        loss = super().training_step(dataloader_iter)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class ClassWitness(Witness):
    """Also notes the class of the iterator between steps."""

    def look(self, trainer: Any, module: Any, batch: Any) -> None:
        super().look(trainer, module, batch)
        self.pictures[-1]["iterator"] = id(type(trainer.fit_loop._data_fetcher.iterator_wrapper))


def run(kind: Any, *monitors: CurvatureMonitor, **options: Any) -> Any:
    torch.manual_seed(1)
    module = kind().double()
    witness = Witness() if kind is Whole else ClassWitness()
    options = {"precision": "64-true", "data": loader(), **options}
    trainer = fit(module, *monitors, witness, **options)
    return trainer, {"end": state_of(trainer, module), "pictures": witness.pictures}


def history(kind: Any, **options: Any) -> Any:
    monitor = CurvatureMonitor(every_n_steps=options.pop("every", 1), on_error="raise")
    run(kind, monitor, **options)
    return {name: [list(part) for part in monitor.history[name]] for name in monitor.history}


OPTIONS: dict[str, dict[str, Any]] = {
    "every step": {},
    "every second": {"every": 2},
    "two epochs": {"max_epochs": 2, "limit_train_batches": 3},
}


@pytest.mark.parametrize(
    ("kind", "which"),
    without(
        itertools.product([Fetches, FetchesByHand], OPTIONS),
        leave=[(Fetches, "every step"), (FetchesByHand, "two epochs")],
    ),
)
def test_it_is_read_like_a_step_that_gets_its_batch(kind: Any, which: str) -> None:
    options = OPTIONS[which]
    fetched, given = history(kind, **options), history(Whole, **options)
    assert fetched.keys() == given.keys()
    for name in fetched.keys() - TIMES:
        np.testing.assert_allclose(fetched[name], given[name], rtol=1e-6, err_msg=name)


# each way to fetch with readings of each step and of every second, on either probe
@pytest.mark.parametrize(
    ("kind", "every", "probe"),
    only(
        itertools.product(
            [Fetches, FetchesTwo, FetchesWhatIsLeft, FetchesByHand], [1, 2], ["first", "current"]
        ),
        take=[
            (Fetches, 1, "first"),
            (Fetches, 2, "current"),
            (FetchesTwo, 1, "current"),
            (FetchesTwo, 2, "first"),
            (FetchesWhatIsLeft, 1, "first"),
            (FetchesWhatIsLeft, 2, "current"),
            (FetchesByHand, 1, "current"),
            (FetchesByHand, 2, "first"),
        ],
    ),
)
def test_a_run_is_bit_identical_with_and_without_the_monitor(kind: Any, every: int, probe: Any) -> None:
    _, plain = run(kind)
    monitor = CurvatureMonitor(every_n_steps=every, probe=probe, on_error="raise")
    _, watched = run(kind, monitor)
    assert_same(plain, watched)
    steps, values = monitor.history["curvature/sharpness"]
    assert len(steps) > 1 or kind is FetchesWhatIsLeft
    assert np.isfinite(values).all()
    # the gradient that made the step is that of the batches that were kept
    np.testing.assert_allclose(monitor.history["step/gradient_cosine"].values, -1, rtol=1e-9)


def test_accumulation_is_read_as_it_is_done() -> None:
    """Lightning clears gradients by the batch_idx of the fetch before: a step is made of fewer."""
    monitor = CurvatureMonitor(every_n_steps=1, on_error="raise")
    run(Fetches, monitor, accumulate_grad_batches=2)
    steps, cosine = monitor.history["step/gradient_cosine"]
    assert steps.tolist() == [0, 1, 2]
    np.testing.assert_allclose(cosine, -1, rtol=1e-9)
    assert monitor.history["curvature/sharpness"].steps.tolist() == [0, 1, 2]


@pytest.mark.parametrize("pl", [lightning.pytorch, pytorch_lightning])
def test_both_namespaces_read_the_same(pl: Any) -> None:
    class Module(ClassifierMixin, pl.LightningModule):
        def training_step(self, dataloader_iter: Any) -> Any:
            return self.loss(next(dataloader_iter)[0])

    class Listed(ListMixin, pl.loggers.logger.Logger):
        pass

    def run(module: Any) -> Any:
        torch.manual_seed(1)
        monitor, logger = CurvatureMonitor(every_n_steps=2, on_error="raise"), Listed()
        options = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
        trainer = pl.Trainer(
            callbacks=[monitor],
            logger=logger,
            max_epochs=1,
            accelerator="cpu",
            enable_checkpointing=False,
            **options,
        )
        trainer.fit(module(), batches())
        return [[s, {k: v for k, v in m.items() if k not in TIMES}] for s, m in logger.rows]

    class Given(ClassifierMixin, pl.LightningModule):
        def training_step(self, batch: Any) -> Any:
            return self.loss(batch)

    rows = run(Module)
    assert len(rows) == 3
    assert_same(rows, run(Given))


def test_a_batch_of_one_s_own_is_fetched() -> None:
    monitor = CurvatureMonitor(["sharpness"], every_n_steps=1, probe=[examples(8)[:]], on_error="raise")

    class Plain(Classifier):
        def training_step(self, dataloader_iter: Any) -> Any:
            return self.loss(next(dataloader_iter)[0])

    torch.manual_seed(1)
    module = Plain()
    loss = float(module.loss(examples(8)[:]).detach())
    fit(module, monitor, max_steps=2)
    assert monitor.history["curvature/loss"].values[0] == pytest.approx(loss, rel=1e-6)


def test_a_probe_with_fewer_batches_than_a_step_takes_is_said_so() -> None:
    monitor = CurvatureMonitor(every_n_steps=1, probe=[examples(4)[:]])
    with told() as warnings:
        fit(FetchesTwo(), monitor)
    assert len(warnings) == 1
    assert "training_step fetches more batches from dataloader_iter" in warnings[0]
    assert np.isfinite(monitor.history["step/loss_change"].values).all()


def test_a_batch_that_cannot_be_copied_costs_the_readings_of_its_step_alone() -> None:
    class Stubborn:
        """Clones itself, once."""

        def __init__(self, i: int) -> None:
            self.i, self.pair = i, examples(4, seed=i)[:]

        def clone(self) -> Stubborn:
            if self.i == 2:
                raise MemoryError("no room")
            return Stubborn(self.i)

    class Plain(Classifier):
        def training_step(self, dataloader_iter: Any) -> Any:
            return self.loss(next(dataloader_iter)[0].pair)

    monitor = CurvatureMonitor(["step_geometry"], every_n_steps=1)
    with told() as warnings:
        data = [Stubborn(i) for i in range(5)]
        fit(Plain(), monitor, data=DataLoader(data, batch_size=None, collate_fn=lambda x: x))
    assert len(warnings) == 1
    assert "a batch could not be copied: MemoryError: no room" in warnings[0]
    missing = np.isnan(monitor.history["step/loss_change"].values)
    assert missing.tolist() == [False, False, True, False, False]


def test_a_loss_fn_is_refused_in_words() -> None:
    monitor = CurvatureMonitor(loss_fn=lambda module, batch: module.loss(batch))
    with told() as warnings:
        trainer, _ = run(Fetches, monitor)
    assert trainer.global_step == 6
    assert len(warnings) == 1
    assert "leave it out, or write training_step(batch)" in warnings[0]
