"""A fault at each stage of a reading: the run is what it would be, and one warning names the cause."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pkgutil import resolve_name
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from curvwatch import CurvatureMonitor, History, Rule, Sharpness, StepGeometry
from curvwatch.measures import Reading
from tests.compat.rows import Outcome, Row, train
from tests.compat.steps import KeepsTrainer
from tests.support.modules import Classifier, ListLogger, batches, fit, is_ours, told
from tests.support.studies import without
from tests.support.trace import assert_same, state_of
from tests.training.lightning.test_no_trace import Everything


class Fuse:
    """Blows when it is used for the `at`-th time, or each time."""

    def __init__(self, at: int | None, error: BaseException) -> None:
        self.at, self.error, self.uses = at, error, 0

    def use(self) -> None:
        self.uses += 1
        if self.at in (None, self.uses):
            raise self.error


# by the name of a place; not on the module, which is lent out for a reading
FUSES: dict[str, Fuse] = {}


def pop(place: str) -> None:
    if place in FUSES:
        FUSES[place].use()


class Trap(torch.autograd.Function):
    """Blows in its second derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return TrapOfGradient.apply(g)


class TrapOfGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor) -> Tensor:
        return g.clone()

    @staticmethod
    def backward(ctx: Any, gg: Tensor) -> Tensor:
        pop("product")
        return gg.clone()


class Fragile(Everything):
    """Blows in a reading, when it has already counted, drawn and logged."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        output = super().training_step((Trap.apply(x * self.scale), y), batch_idx)
        if not isinstance(self.scale, nn.Parameter):  # a reading's stand-in
            output["loss"].register_hook(lambda g: pop("gradient"))
            pop("training_step")
        return output

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))


class FragileSharpness(Sharpness):
    def read(self, at: Any) -> Any:
        reading = super().read(at)
        pop("sharpness")
        return reading


class FragileGeometry(StepGeometry):
    def read(self, step: Any) -> Any:
        reading = super().read(step)
        pop("geometry")
        return reading


# functions of the package, as places
INSIDE = {
    "solver": "curvwatch.measures.matrices.lanczos",
    "batch": "curvwatch.training.plan.clone_batch",
    "probe": "curvwatch.training.probe.clone_batch",
    "memory": "curvwatch.training.plan.ModuleState.of",
    "loan": "curvwatch.objective.objective.isolated",
    "weights": "curvwatch.training.steps._weights",
    "gradient seen": "curvwatch.training.steps.gradient_of",
    "law": "curvwatch.training.steps.stability_law",
    "announcement": "curvwatch.results.loggers.tensorboard.is_tensorboard",
}
# where, at which use, and what is told to have failed
FAULTS = [
    ("training_step", 4, "the reading of sharpness"),
    ("training_step", 5, "the reading of step_geometry"),
    ("gradient", 1, "the reading of sharpness"),
    ("product", 3, "the reading of sharpness"),
    ("solver", 3, "the reading of sharpness"),
    ("sharpness", 3, "the reading of sharpness"),
    ("geometry", 3, "the reading of step_geometry"),
    ("batch", 3, "getting ready for a reading"),
    ("probe", 1, "getting ready for a reading"),
    ("memory", 3, "getting ready for a reading"),
    ("loan", 3, "the reading of the landscape"),
    ("loan", 4, "the reading of the step"),
    ("weights", 3, "watching a step of the optimizer"),
    ("weights", 4, "watching a step of the optimizer"),
    ("gradient seen", 3, "saving the gradient"),
    ("law", 3, "watching a step of the optimizer"),
    ("scalars", 3, "logging a reading to ListLogger"),
    ("announcement", 1, "announcing metrics to ListLogger"),
    ("alert", 1, "on_alert='fragile_action'"),
]
PLACES = [f"{place} {at}" for place, at, _ in FAULTS]
# faults that meet the same guard as another one does
LIKE_ANOTHER = (
    ("training_step", 5),
    ("gradient", 1),
    ("solver", 3),
    ("sharpness", 3),
    ("probe", 1),
    ("memory", 3),
    ("loan", 4),
    ("weights", 4),
    ("law", 3),
)
FAULTS_OF_EACH_KIND = without(FAULTS, leave=LIKE_ANOTHER, key=lambda fault: fault[:2])
# which last no longer than the one of the test above, or meet the same guard as another one does
LAST_LIKE_ANOTHER = ("gradient", "solver", "sharpness", "geometry", "law", "announcement", "alert")


def fragile_action(alert: Any) -> None:
    pop("alert")


def wrapped(place: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def use(*args: Any, **kwargs: Any) -> Any:
        pop(place)
        return function(*args, **kwargs)

    return use


@pytest.fixture(autouse=True)
def _places(monkeypatch: Any) -> Iterator[None]:
    for place, path in INSIDE.items():
        monkeypatch.setattr(path, staticmethod(wrapped(place, resolve_name(path))))
    log = ListLogger.log_metrics

    def log_metrics(self: ListLogger, metrics: dict[str, float], step: int | None = None) -> None:
        if any(map(is_ours, metrics)):
            pop("scalars")
        log(self, metrics, step)

    monkeypatch.setattr(ListLogger, "log_metrics", log_metrics)
    FUSES.clear()
    yield
    FUSES.clear()


RUN = Row(
    "faults",
    Fragile,
    data=lambda: batches(16, shuffle=True),
    options={"val": batches(4), "max_epochs": 2, "gradient_clip_val": 0.5},
)
ALWAYS = Rule("always", "step/update_norm", above=-1.0, for_readings=1, meaning="")


def fragile_monitor(**options: Any) -> CurvatureMonitor:
    measures = [FragileSharpness(), FragileGeometry()]
    options = {"rules": [ALWAYS], "on_alert": fragile_action, "every_n_steps": 1, **options}
    return CurvatureMonitor(measures, **options)


def seeded(*callbacks: Any) -> Outcome:
    pl.seed_everything(0, verbose=False)
    return train(RUN, *callbacks)


@pytest.fixture(scope="module")
def plain() -> Outcome:
    """The run without a monitor."""
    return seeded()


def check(monitor: CurvatureMonitor, plain: Outcome, told_of: str) -> None:
    """A run with `monitor` has the same bits, one warning, and a note for each missing value."""
    with told() as warnings:
        watched = seeded(monitor)
    assert warnings == [f"curvwatch: {told_of} failed: ValueError: mine. Training goes on"]
    for part in plain.seen:
        assert_same(plain.seen[part], watched.seen[part], part)
    explained = {note.step for note in monitor.history.notes}
    for name in monitor.history:
        steps, values = monitor.history[name]
        assert set(steps[~np.isfinite(values)].tolist()) <= explained, name


@pytest.mark.parametrize(("place", "at", "doing"), FAULTS_OF_EACH_KIND, ids=PLACES)
def test_one_fault_costs_one_reading_and_no_bit(
    place: str, at: int, doing: str, plain: Outcome
) -> None:
    fuse = FUSES[place] = Fuse(at, ValueError("mine"))
    monitor = fragile_monitor()
    check(monitor, plain, doing)
    assert fuse.uses >= at
    for name in ("curvature/sharpness", "step/stability_ratio"):
        steps, values = monitor.history[name]
        assert steps[-1] == 7
        assert np.isfinite(values).sum() >= 7


@pytest.mark.parametrize(
    "place", without(dict.fromkeys(place for place, _, _ in FAULTS), leave=LAST_LIKE_ANOTHER)
)
def test_a_lasting_fault_is_told_once_and_costs_no_bit(place: str, plain: Outcome) -> None:
    fuse = FUSES[place] = Fuse(None, ValueError("mine"))
    check(fragile_monitor(), plain, next(doing for name, _, doing in FAULTS if name == place))
    assert fuse.uses > 1 or place in ("alert", "announcement")  # these are used once


@pytest.mark.parametrize(
    ("place", "at"),
    without([("weights", 3), ("weights", 4), ("law", 2)], leave=[("weights", 3)]),
)
def test_a_landscape_whose_weights_are_lost_is_not_read(place: str, at: int, plain: Outcome) -> None:
    """Not, under the name of w(t), at w(t+1)."""
    FUSES[place] = Fuse(at, ValueError("mine"))
    monitor = fragile_monitor()
    check(monitor, plain, "watching a step of the optimizer")
    for name in ("curvature/sharpness", "step/loss_change"):
        assert monitor.history[name].steps.tolist() == [0, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(("place", "at", "doing"), FAULTS_OF_EACH_KIND, ids=PLACES)
def test_on_error_raise_raises_it_as_it_is(place: str, at: int, doing: str) -> None:
    error = ValueError("mine")
    FUSES[place] = Fuse(at, error)
    kept = KeepsTrainer()
    with pytest.raises(ValueError, match=r"^mine$") as caught:
        train(RUN, kept, fragile_monitor(on_error="raise"))
    assert caught.value is error
    for optimizer in kept.trainer.optimizers:
        assert not optimizer._optimizer_step_pre_hooks
        assert not optimizer._optimizer_step_post_hooks


class Nonsense(StepGeometry):
    """A measure of somebody else's, with a value that is no number."""

    name = "nonsense"
    metrics = ("step/nonsense",)
    value: Any = None

    def read(self, step: Any) -> Any:
        return Reading({"step/nonsense": self.value})


@pytest.mark.parametrize(
    "value", ["text", None, torch.ones(2), 10**400], ids=["text", "None", "vector", "huge"]
)
def test_a_value_that_is_no_number_costs_the_measure_alone(value: Any, plain: Outcome) -> None:
    measure = Nonsense()
    measure.value = value
    monitor = CurvatureMonitor([measure, FragileGeometry()], every_n_steps=1)
    with told() as warnings:
        watched = seeded(monitor)
    (warning,) = warnings
    assert "the reading of nonsense failed: " in warning
    assert_same(plain.seen, watched.seen)
    assert np.isnan(monitor.history["step/nonsense"].values).all()
    assert np.isfinite(monitor.history["step/loss_change"].values).all()


def test_a_state_that_cannot_be_saved_costs_the_state_alone(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(
        "curvwatch.results.history.History.state_dict", wrapped("state", History.state_dict)
    )
    FUSES["state"] = Fuse(None, ValueError("mine"))
    monitor = CurvatureMonitor(every_n_steps=1)
    saves = ModelCheckpoint(tmp_path, filename="last", every_n_train_steps=4)
    with told() as warnings:
        fit(Classifier(), monitor, saves, enable_checkpointing=True)
    assert warnings == [
        "curvwatch: saving the state of the monitor failed: ValueError: mine. Training goes on"
    ]
    assert monitor.history["curvature/sharpness"].steps.tolist() == list(range(6))
    assert (tmp_path / "last.ckpt").exists()


@pytest.mark.parametrize(
    "damage",
    without([{"probe": 3}, {"memory": None}, {"last_step": None, "probe": 3}], leave=[{"probe": 3}]),
)
def test_a_state_that_cannot_be_read_costs_the_past_alone(damage: Any, tmp_path: Any) -> None:
    path = tmp_path / "last.ckpt"
    fit(Classifier(), CurvatureMonitor(every_n_steps=1), max_steps=6).save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["callbacks"]["CurvatureMonitor{'name': ''}"].update(damage)
    torch.save(checkpoint, path)
    monitor = CurvatureMonitor(every_n_steps=1)
    with told() as warnings:
        fit(Classifier(), monitor, max_steps=12, ckpt_path=path)
    (warning,) = warnings
    assert "loading the state of the monitor failed: " in warning
    steps, values = monitor.history["curvature/sharpness"]
    assert steps.tolist() == list(range(6, 12))
    assert np.isfinite(values).all()


class Interrupts(pl.Callback):
    """A Ctrl-C at the beginning or the end of the first batch."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self.interrupt)

    def interrupt(self, *_: Any) -> None:
        raise KeyboardInterrupt


def interrupted(*callbacks: pl.Callback) -> dict[str, Any]:
    """What a Ctrl-C left."""
    kept, handler = KeepsTrainer(), signal.getsignal(signal.SIGINT)
    pl.seed_everything(0, verbose=False)
    module = Fragile()
    try:
        with pytest.raises(SystemExit):  # Lightning makes it one
            fit(module, kept, *callbacks, data=batches(16), val=batches(4))
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning switches it off
    return state_of(kept.trainer, module)


@pytest.mark.parametrize(
    ("place", "hook"),
    [
        *((place, "on_train_batch_start") for place in ("probe", "batch", "memory")),
        *((place, "on_train_batch_end") for place in ("training_step", "gradient", "product")),
        *((place, "on_train_batch_end") for place in ("solver", "sharpness", "scalars", "alert")),
    ],
)
def test_a_keyboard_interrupt_passes_through_a_reading(place: str, hook: str) -> None:
    FUSES[place] = Fuse(1, KeyboardInterrupt())
    assert_same(interrupted(Interrupts(hook)), interrupted(fragile_monitor()))
    assert FUSES[place].uses == 1
