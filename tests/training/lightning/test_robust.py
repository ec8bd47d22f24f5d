"""What other people's code does to a reading, and what the reading says of it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from curvwatch import CurvatureMonitor, Rule, StepGeometry, register_law
from curvwatch.stability import LAWS, Law
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
    told,
)
from tests.support.trace import assert_same


def weights(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


class Broken(torch.optim.SGD):
    """Its law raises."""


class WithoutRate(torch.optim.Optimizer):
    """Finds its own learning rate."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": None})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                p -= 0.01 * p.grad
        return loss


def test_a_law_that_raises_does_not_stop_the_run(monkeypatch: Any) -> None:
    monkeypatch.setattr("curvwatch.stability.table.LAWS", dict(LAWS), raising=True)

    def update(param: Any, group: Any, state: Any) -> Any:
        raise KeyError("moment")

    register_law(Broken, Law(update=update, formula="?", reference="?"))
    monitor = CurvatureMonitor(every_n_steps=1)
    with told() as warnings:
        trainer = fit(Classifier(optimizer=lambda p: Broken(p, lr=0.1)), monitor)
    assert trainer.global_step == 6
    assert any("watching a step of the optimizer failed: KeyError: 'moment'" in w for w in warnings)


def test_a_group_without_a_learning_rate() -> None:
    monitor = CurvatureMonitor(every_n_steps=1, on_error="raise")
    trainer = fit(Classifier(optimizer=WithoutRate), monitor)
    assert trainer.global_step == 6
    assert np.isnan(monitor.history["curvature/edge"].values).all()
    assert np.isnan(monitor.history["curvature/sharpness_x_lr"].values).all()
    assert np.isfinite(monitor.history["curvature/sharpness"].values).all()
    assert np.isfinite(monitor.history["step/stability_ratio"].values).all()


class ScalesItsBatch(Classifier):
    """In the module's own hook, which runs after the callbacks'."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        batch[0].mul_(1 + batch_idx)


def test_a_batch_that_the_module_changes_after_the_callbacks_is_read_as_it_was_trained() -> None:
    x, y = examples().tensors
    scaled = TensorDataset(x * torch.arange(1, 7).repeat_interleave(4)[:, None], y)
    monitors = []
    for module, data in ((ScalesItsBatch, examples()), (Classifier, scaled)):
        torch.manual_seed(0)
        monitors.append(CurvatureMonitor(every_n_steps=1, probe="current"))
        fit(module(), monitors[-1], data=DataLoader(data, batch_size=4))
    ours, twin = (monitor.history for monitor in monitors)
    for name in set(twin) - TIMES:
        assert_same(list(ours[name].values), list(twin[name].values), name)


def test_monitors_take_their_wrapper_off_the_strategy_in_any_order() -> None:
    trainer = fit(Classifier(), CurvatureMonitor(name="a"), CurvatureMonitor(name="b"))
    assert "on_train_batch_start" not in vars(trainer.strategy)


DRAWN = random.Random(0)


class DrawsElsewhere(Classifier):
    """From a generator that is not the module's; in all steps but the first."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch) * (1 + DRAWN.random() if batch_idx else 1.0)


@pytest.mark.parametrize("measure", ["sharpness", "step_geometry"])
def test_a_step_that_is_not_repeatable_is_told_once_and_its_readings_are_marked(measure: str) -> None:
    monitor = CurvatureMonitor([measure], every_n_steps=1, probe="current")
    with told() as warnings:
        fit(DrawsElsewhere(), monitor)
    (warning,) = warnings
    assert "training_step is not repeatable" in warning
    assert "its loss is" in warning
    marked = [n.step for n in monitor.history.notes if "not repeatable" in n.text]
    assert marked == [1, 2, 3, 4, 5]


def test_a_probe_that_is_not_repeatable_stays_marked() -> None:
    class FromTheStart(DrawsElsewhere):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx + 1)

    monitor = CurvatureMonitor(["sharpness"], every_n_steps=2)
    with told() as warnings:
        fit(FromTheStart(), monitor)
    assert len(warnings) == 1
    assert [n.step for n in monitor.history.notes] == [0, 2, 4]


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}])
def test_a_step_that_is_repeatable_is_not_told_to_be_another(options: Any) -> None:
    monitor = CurvatureMonitor(every_n_steps=1)
    fit(Classifier(mlp(dropout=0.4)), monitor, **options)  # a warning would be an error
    assert not monitor.history.notes


def test_a_loss_that_an_optimizer_computes_at_several_points_is_not_compared() -> None:
    monitor = CurvatureMonitor(["sharpness"], every_n_steps=1)
    fit(Classifier(optimizer=lambda ps: torch.optim.LBFGS(ps, max_iter=4)), monitor)
    assert not any("repeatable" in n.text for n in monitor.history.notes)


def test_values_that_are_doubtful_raise_no_alert() -> None:
    always = Rule("always", "step/update_norm", above=-1.0, for_readings=2, meaning="")
    alerts = {}
    for module in (Classifier, DrawsElsewhere):
        monitor = CurvatureMonitor(every_n_steps=1, rules=[always])
        with told():
            fit(module(), monitor)
        alerts[module] = len(monitor.alerts)
    assert alerts == {Classifier: 1, DrawsElsewhere: 0}


class Cusp(Classifier):
    """A penalty with no second derivative at zero, where the bias starts."""

    def __init__(self) -> None:
        net = mlp()
        nn.init.zeros_(net[-1].bias)
        super().__init__(net)

    def loss(self, batch: Any) -> Tensor:
        return super().loss(batch) + 1e-3 * self.net[-1].bias.norm()


def test_a_missing_second_derivative_stops_no_healthy_run() -> None:
    monitor = CurvatureMonitor(every_n_steps=1, on_alert="stop")
    trainer = fit(Cusp(), monitor)
    assert trainer.global_step == 6
    assert not monitor.alerts
    assert np.isnan(monitor.history["curvature/sharpness"].values[0])
    assert "products on the probe are not finite" in monitor.history.notes[0].text


def test_missing_values_do_not_make_early_stopping_stop() -> None:
    stopping = EarlyStopping(monitor="step/stability_ratio", patience=99, mode="min")
    watched = EarlyStopping(monitor="curvature/stability_ratio", patience=99, mode="min", strict=False)
    monitor = CurvatureMonitor(every_n_steps=4)
    module = Validated(optimizer=adam)
    trainer = fit(
        module, monitor, stopping, watched, data=batches(32), val=batches(4), val_check_interval=2
    )
    assert trainer.global_step == 8
    assert float(trainer.callback_metrics["curvature/stability_ratio"]) > 0


def test_a_probe_that_is_a_loader_with_a_generator_of_its_own() -> None:
    def run(watch: bool) -> list[Tensor]:
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(3)
        loader = DataLoader(examples(), batch_size=4, shuffle=True, generator=generator)
        module = Classifier()
        monitors = [CurvatureMonitor(every_n_steps=2, probe=loader)] if watch else []
        fit(module, *monitors, data=loader)
        return weights(module)

    assert all(torch.equal(a, b) for a, b in zip(run(True), run(False), strict=True))


def test_one_logger_that_fails_does_not_starve_the_others() -> None:
    class Full(ListLogger):
        def log_metrics(self, metrics: Any, step: Any = None) -> None:
            if "curvature/loss" in metrics:
                raise OSError("disk full")

    good = ListLogger()
    monitor = CurvatureMonitor(every_n_steps=1)
    with told() as warnings:
        fit(Classifier(), monitor, logger=[Full(), good])
    assert len(warnings) == 1
    assert good.steps("curvature/sharpness") == list(range(6))


def test_a_rule_on_a_metric_that_is_not_measured_is_told() -> None:
    rule = Rule("typo", "curvature/sharpnes", above=1.0, for_readings=1, meaning="")
    with told() as warnings:
        fit(Classifier(), CurvatureMonitor(every_n_steps=3, rules=[rule]))
    assert warnings == [
        "curvwatch: the rule 'typo' watches 'curvature/sharpnes', which is not measured in this run. "
        "Training goes on"
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"above": "1"}, "above='1'"),
        ({"above": float("nan")}, "above=nan"),
        ({"for_readings": "3"}, "for_readings='3'"),
        ({"for_readings": 2.5}, "for_readings=2.5"),
        ({"for_readings": 0}, "for_readings=0"),
    ],
)
def test_a_rule_checks_its_arguments(options: Any, message: str) -> None:
    good = {"name": "x", "metric": "curvature/loss", "above": 1.0, "for_readings": 1, "meaning": ""}
    with pytest.raises(ValueError, match=message):
        Rule(**{**good, **options})


# `tests/training/loop/test_loops.py` has the same of all of curvwatch
@pytest.mark.study
def test_the_numerics_do_not_import_lightning() -> None:
    import subprocess
    import sys

    code = (
        "import sys, curvwatch.objective, curvwatch.operators, curvwatch.solvers, curvwatch.stability\n"
        "import curvwatch.measures\n"
        "assert not [m for m in sys.modules if 'lightning' in m], sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False)
    assert done.returncode == 0


class Bags(Classifier):
    """EmbeddingBag has no second derivative in torch."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Tanh(), nn.Linear(8, 3)))
        self.bag = nn.EmbeddingBag(16, 8)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.net(self.bag((x * 2).long() % 16)), y)


def test_an_operation_without_a_second_derivative_is_named() -> None:
    monitor = CurvatureMonitor(every_n_steps=1)
    with told() as warnings:
        fit(Bags(), monitor)
    assert "_embedding_bag" in warnings[0]
    assert "StepGeometry(curvature='secant')" in warnings[0]
    secant = CurvatureMonitor([StepGeometry(curvature="secant")], every_n_steps=1, on_error="raise")
    fit(Bags(), secant)
    assert np.isfinite(secant.history["step/directional_sharpness"].values).all()


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class OnceLater(Classifier):
    """Reaches a function without a second derivative from the third step on."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return self.loss((x, y)) if batch_idx < 2 else Once.apply(self.loss((x, y)))


def test_a_function_without_a_second_derivative_is_noticed_whenever_it_comes() -> None:
    monitor = CurvatureMonitor(every_n_steps=1, probe="current")
    with told() as warnings:
        fit(OnceLater(), monitor)
    assert all("once_differentiable" in text for text in warnings)
    read = np.isfinite(monitor.history["curvature/sharpness"].values)
    assert read.tolist() == [True] * 2 + [False] * 4


def test_optimizers_that_are_replaced_in_mid_run_are_followed() -> None:
    class Replaces(Classifier):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                self.trainer.optimizers = [torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9)]

    monitor = CurvatureMonitor(every_n_steps=1)
    trainer = fit(Replaces(), monitor, data=batches(8), max_epochs=2)
    assert monitor.history["curvature/effective_edge"].values == pytest.approx([20, 20, 7.6, 7.6])
    assert np.isfinite(monitor.history["step/stability_ratio"].values).tolist() == [True] * 4
    assert not any(o._optimizer_step_post_hooks for o in trainer.optimizers)


class MadeBefore(Classifier):
    """A part of the graph is older than training_step."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.made = [self.net[0].weight * 1.0]

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        hidden = torch.tanh(x @ self.made[0].T + self.net[0].bias)
        return nn.functional.cross_entropy(self.net[3](hidden), y)


@pytest.mark.parametrize("measures", [["sharpness"], ["sharpness", "step_geometry"]])
def test_a_probe_whose_gradient_is_not_that_of_training_is_marked(measures: list[str]) -> None:
    monitor = CurvatureMonitor(measures, every_n_steps=2, probe="current")
    with told() as warnings:
        fit(MadeBefore(), monitor)
    assert any("the values on the probe may describe another function" in text for text in warnings)
    marked = [n.step for n in monitor.history.notes if "on the probe" in n.text]
    assert marked == [0, 2, 4]


def test_a_checkpoint_that_training_step_saves_is_that_of_training(tmp_path: Any) -> None:
    class Saves(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.trainer.save_checkpoint(tmp_path / f"{batch_idx}.ckpt")
            return self.loss(batch)

    saved = []
    for callbacks in ([], [CurvatureMonitor(every_n_steps=1)]):
        torch.manual_seed(0)
        trainer = fit(Saves(), *callbacks)
        assert "save_checkpoint" not in vars(trainer)
        paths = [tmp_path / f"{i}.ckpt" for i in range(6)]
        saved.append([torch.load(p, weights_only=True)["state_dict"] for p in paths])
    assert_same(*saved)


class Skips(Classifier):
    """Has no loss for one batch."""

    def __init__(self, skipped: int) -> None:
        super().__init__()
        self.skipped = skipped

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        return None if batch_idx == self.skipped else self.loss(batch)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")  # Lightning's own
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("skipped", [0, 1])
def test_a_batch_without_a_loss_is_no_part_of_the_probe_or_the_step(
    accumulate: int, skipped: int
) -> None:
    monitor = CurvatureMonitor(every_n_steps=3, probe_batches=2)
    fit(Skips(skipped), monitor, data=batches(40), accumulate_grad_batches=accumulate)
    read = np.isfinite(monitor.history["curvature/sharpness"].values)
    assert len(read) == (3 if accumulate == 1 else 1)
    assert read.all()
    moved = np.isfinite(monitor.history["step/loss_change"].values)
    assert moved.tolist()[1:] == [True] * (len(moved) - 1)
    # the first step was made of the other batch of its group
    assert bool(moved[0]) == (accumulate == 2 or skipped != 0)
