"""Fresh values for callbacks and schedulers that monitor a metric, and a cadence by epochs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset

from curvwatch import CurvatureMonitor, CurvwatchWarning
from tests.support.modules import Classifier, batches, fit

EPOCH = 6  # steps


def data(steps: int = EPOCH) -> Any:
    return batches(4 * steps)


class Stream(IterableDataset[Any]):
    """Batches without a length."""

    def __init__(self, items: Any) -> None:
        self._items = list(items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)


def stream() -> Any:
    return DataLoader(Stream(data()), batch_size=None)


class Polls(L.Callback):
    """Keeps what a monitored metric is at the end of each epoch."""

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor
        self.seen: list[float] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append(float(trainer.callback_metrics.get(self.monitor, math.nan)))


def steps_of(monitor: CurvatureMonitor, metric: str = "curvature/sharpness") -> list[int]:
    return monitor.history[metric].steps.tolist()


def ends(epochs: int, steps: int = EPOCH) -> list[int]:
    return [steps * (e + 1) - 1 for e in range(epochs)]


@pytest.mark.parametrize("cadence", [{"every_n_steps": 1000}, {"budget": 0.01}])
def test_a_watched_metric_is_read_in_the_last_step_of_each_epoch(cadence: Any) -> None:
    monitor, polls = CurvatureMonitor(**cadence), Polls("curvature/sharpness")
    fit(Classifier(), polls, monitor, data=data(), max_epochs=4)
    assert set(ends(4)) <= set(steps_of(monitor))
    series = monitor.history["curvature/sharpness"]
    at_ends = [float(v) for t, v in zip(*series, strict=True) if int(t) in ends(4)]
    assert polls.seen == pytest.approx(at_ends)
    assert len(set(polls.seen)) == 4


def test_only_the_measure_that_is_watched_is_read() -> None:
    monitor = CurvatureMonitor(["sharpness", "spectral_density", "step_geometry"], every_n_steps=1000)
    fit(Classifier(), Polls("curvature/trace"), monitor, data=data(), max_epochs=2)
    assert steps_of(monitor, "curvature/trace") == [0, *ends(2)]
    assert steps_of(monitor) == [0]
    assert steps_of(monitor, "step/loss_change") == [0]


def test_nobody_who_watches_means_no_further_reading() -> None:
    monitor = CurvatureMonitor(every_n_steps=1000)
    fit(Classifier(), Polls("train_loss"), monitor, data=data(), max_epochs=3)
    assert steps_of(monitor) == [0]


def test_early_stopping_counts_each_reading_once() -> None:
    """Adam has no edge at step 0: the first value that it waits for is there at the epoch's end."""

    class WithAdam(Classifier):
        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    stopping = EarlyStopping("curvature/stability_ratio", patience=2, mode="min", min_delta=1e9)
    monitor = CurvatureMonitor(every_n_steps=1000)
    trainer = fit(WithAdam(), stopping, monitor, data=data(), max_epochs=9)
    assert trainer.current_epoch == 3
    assert steps_of(monitor)[1:] == ends(3)


def test_a_plateau_scheduler_by_steps_has_a_fresh_value_each_time() -> None:
    class Plateau(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=10**6)
            config = {"monitor": "curvature/sharpness", "interval": "step", "frequency": 4}
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **config}}

    monitor = CurvatureMonitor(every_n_steps=1000)
    fit(Plateau(), monitor, data=data(12), max_epochs=1)
    assert steps_of(monitor) == [0, 3, 7, 11]


def test_a_plateau_scheduler_by_epochs_is_polled_every_so_many() -> None:
    class Plateau(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            config = {"monitor": "curvature/sharpness", "frequency": 2}
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **config}}

    monitor = CurvatureMonitor(every_n_steps=1000)
    fit(Plateau(), monitor, data=data(), max_epochs=4)
    assert steps_of(monitor) == [0, *ends(4)[1::2]]


def test_a_checkpoint_every_few_steps_has_a_fresh_value(tmp_path: Any) -> None:
    checkpoint = ModelCheckpoint(
        tmp_path, monitor="curvature/sharpness", every_n_train_steps=4, save_top_k=2
    )
    monitor = CurvatureMonitor(every_n_steps=1000)
    fit(Classifier(), checkpoint, monitor, data=data(12), enable_checkpointing=True)
    assert steps_of(monitor) == [0, 3, 7, 11]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"val_check_interval": 3}, [2, 5, 8, 11]),
        ({"val_check_interval": 0.5}, [2, 5, 8, 11]),
        ({"check_val_every_n_epoch": 2}, [5, 11]),
        ({"check_val_every_n_epoch": None, "val_check_interval": 4}, [3, 5, 7, 11]),
    ],
)
def test_before_each_validation_there_is_a_fresh_value(options: Any, expected: list[int]) -> None:
    class Validated(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

    monitor = CurvatureMonitor(every_n_steps=1000)
    stopping = EarlyStopping("curvature/sharpness", patience=100)
    fit(
        Validated(),
        stopping,
        monitor,
        data=data(),
        val=data(1),
        max_epochs=2,
        num_sanity_val_steps=0,
        **options,
    )
    assert steps_of(monitor)[1:] == expected


@pytest.mark.parametrize("batches_of_epoch", [12, 10])  # the last group is a short one
def test_with_accumulation_it_is_the_last_step(batches_of_epoch: int) -> None:
    monitor, polls = CurvatureMonitor(every_n_steps=1000), Polls("curvature/sharpness")
    fit(
        Classifier(),
        polls,
        monitor,
        data=data(batches_of_epoch),
        max_epochs=2,
        accumulate_grad_batches=4,
    )
    assert steps_of(monitor) == [0, 2, 5]


def test_data_without_a_length() -> None:
    monitor = CurvatureMonitor(every_n_epochs=1)
    fit(Classifier(), monitor, data=stream(), max_epochs=2)
    assert steps_of(monitor) == ends(2)


def test_data_without_a_length_and_accumulation_is_said() -> None:
    monitor = CurvatureMonitor(every_n_epochs=1)
    with pytest.warns(CurvwatchWarning, match="the training data has no length"):
        fit(Classifier(), monitor, data=stream(), accumulate_grad_batches=2)


def test_the_last_step_of_a_run_is_the_last_of_its_epoch() -> None:
    monitor = CurvatureMonitor(every_n_epochs=1)
    fit(Classifier(), monitor, data=data(), max_steps=8)
    assert steps_of(monitor) == [5, 7]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"every_n_epochs": 1}, ends(4)),
        ({"every_n_epochs": 2}, ends(4)[1::2]),
        ({"every_n_epochs": 2, "every_n_steps": 9}, [0, 9, 11, 18, 23]),
    ],
)
def test_a_cadence_by_epochs(options: Any, expected: list[int]) -> None:
    monitor = CurvatureMonitor(**options)
    fit(Classifier(), monitor, data=data(), max_epochs=4)
    assert steps_of(monitor) == steps_of(monitor, "step/loss_change") == expected


@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_a_cadence_by_epochs_is_a_number(n: Any) -> None:
    with pytest.raises(ValueError, match="every_n_epochs"):
        CurvatureMonitor(every_n_epochs=n)
    with pytest.raises(ValueError, match="every_n_steps"):
        CurvatureMonitor(every_n_steps=0)


@pytest.mark.parametrize(
    ("metric", "why"),
    [
        ("curvature/trace", "add 'spectral_density' to measures"),
        ("curvature/sharpness-Adam", "this run has curvature/sharpness"),
        ("curvature/sharpnes", "names are in monitor.history"),
    ],
)
def test_a_metric_that_cannot_come_is_said_at_the_start(metric: str, why: str) -> None:
    monitor = CurvatureMonitor(every_n_steps=1000)
    with pytest.warns(CurvwatchWarning, match=f"Polls monitors '{metric}', which is not .*{why}"):
        fit(Classifier(), Polls(metric), monitor, data=data())
