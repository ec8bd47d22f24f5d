"""What alerts set off, on real runs."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.optim import lr_scheduler

from curvwatch import CurvatureMonitor, Rule, Watch, lower_lr, warmup_again
from curvwatch.training.learning_rates import LearningRates
from tests.support.modules import Classifier, ListLogger, batches, fit, told
from tests.training.lightning.test_alerts import diverge, watch

ONCE = Rule("too long", "step/update_norm", above=0.0, cooldown=10**6, meaning="for this test")


class Scheduled(Classifier):
    """Logs its learning rate before each step; `schedule` makes a scheduler of an optimizer."""

    def __init__(self, schedule: Any = None) -> None:
        super().__init__()
        self.schedule = schedule
        self.rates: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if torch.is_grad_enabled() and self.trainer.global_step == len(self.rates):
            self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        if self.schedule is None:
            return optimizer
        return [optimizer], [{"scheduler": self.schedule(optimizer), "interval": "step"}]


def rates(*callbacks: Any, schedule: Any = None, **options: Any) -> list[float]:
    module = Scheduled(schedule)
    torch.manual_seed(0)
    fit(module, *callbacks, max_steps=12, data=batches(200), **options)
    return module.rates


def alerting(action: Any, *, at: int = 3, **options: Any) -> CurvatureMonitor:
    return CurvatureMonitor(
        ["step_geometry"], every_n_steps=at, rules=[ONCE], on_alert=action, on_error="raise", **options
    )


SCHEDULES: dict[str, Any] = {
    "none": None,
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
    "step": lambda o: lr_scheduler.StepLR(o, 4, 0.5),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 20, eta_min=0.01),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.3, total_steps=20),
    "warmup, then cosine": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=6), lr_scheduler.CosineAnnealingLR(o, 20)], [6]
    ),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
def test_lower_lr_goes_along_with_the_schedule(schedule: Any, caplog: Any) -> None:
    plain = rates(schedule=schedule)
    with caplog.at_level(logging.WARNING, "curvwatch"):
        lowered = rates(alerting(lower_lr(0.25), at=100), schedule=schedule)
    # the alert is of step 0
    expected = [plain[0], *(0.25 * rate for rate in plain[1:])]
    assert lowered == pytest.approx(expected, rel=1e-6)
    assert "CHANGES THE RUN at step 0 (too long): learning rate" in caplog.records[-1].getMessage()


def test_warmup_again_rises_along_a_line_and_ends_where_it_was(caplog: Any) -> None:
    seen = rates(alerting(warmup_again(4, start=0.2), at=100))
    ramp = [0.2, 0.4, 0.6, 0.8, 1.0]
    assert seen == pytest.approx([0.1, *(0.1 * r for r in ramp), *[0.1] * 6])
    assert "then back up in 4 steps" in caplog.records[-1].getMessage()


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.filterwarnings("ignore:You.re resuming from a checkpoint that ended before")
def test_a_warmup_goes_on_after_a_checkpoint(tmp_path: Path) -> None:
    whole = rates(alerting(warmup_again(8), at=100))
    torch.manual_seed(0)
    first = Scheduled()
    saver = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1)
    fit(
        first,
        alerting(warmup_again(8), at=100),
        saver,
        max_steps=4,
        data=batches(200),
        enable_checkpointing=True,
    )
    second = Scheduled()
    second.rates = [0.0] * 4
    monitor = alerting(warmup_again(8), at=100)
    fit(
        second,
        monitor,
        saver,
        max_steps=12,
        data=batches(200),
        ckpt_path=saver.last_model_path,
        enable_checkpointing=True,
    )
    assert [*first.rates, *second.rates[4:]] == pytest.approx(whole)
    assert len(monitor.alerts) == 1  # it does not fire again


def test_two_warmups_are_one() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=torch.tensor(1.0), foreach=False)
    controlled = LearningRates([optimizer])
    controlled.warm_up(4, 0.2)
    controlled.advance()
    controlled.warm_up(2, 0.5)
    seen = [float(optimizer.param_groups[0]["lr"])]
    for _ in range(4):
        controlled.advance()
        seen.append(float(optimizer.param_groups[0]["lr"]))
    assert seen == pytest.approx([0.5, 0.75, 1.0, 1.0, 1.0])
    assert controlled.factor == pytest.approx(1.0)


def test_a_checkpoint_is_saved_before_the_run_is_lost(tmp_path: Path) -> None:
    monitor = watch(on_alert="checkpoint", on_error="raise")
    diverge(monitor, default_root_dir=tmp_path)
    (alert,) = monitor.alerts
    (path,) = tmp_path.rglob("*.ckpt")
    assert path.name == f"alert-divergence-step={alert.step}.ckpt"
    saved = torch.load(path, weights_only=True)
    assert saved["global_step"] == alert.step + 1
    assert all(bool(w.isfinite().all()) for w in saved["state_dict"].values())
    (state,) = (s for key, s in saved["callbacks"].items() if "CurvatureMonitor" in key)
    assert len(state["alerts"]["alerts"]) == 1


def test_it_goes_where_other_checkpoints_are(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path / "kept", save_last=True)
    fit(Classifier(), alerting("checkpoint"), saver, enable_checkpointing=True)
    assert (tmp_path / "kept" / "alert-too-long-step=0.ckpt").is_file()


def test_warn_is_a_warning_of_python(recwarn: Any) -> None:
    with told() as warnings:
        fit(Classifier(), alerting("warn"))
    assert [
        text for text in warnings if text.startswith("curvwatch alert, step 0: step/update_norm is ")
    ]


def test_a_rule_has_an_action_of_its_own() -> None:
    calls: list[str] = []
    own = Rule("own", "step/update_norm", above=0.0, action=lambda a: calls.append(a.rule))
    monitor = CurvatureMonitor(
        every_n_steps=1, rules=[ONCE, own], on_alert=lambda a: calls.append(f"all: {a.rule}")
    )
    fit(Classifier(), monitor)
    assert calls == ["all: too long", "all: own", "own"]


def test_rules_over_what_the_module_logs() -> None:
    class Logs(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("mine", float(self.trainer.global_step))
            self.log("on_epoch", 9.0 + self.trainer.current_epoch, on_step=False, on_epoch=True)
            return super().training_step(batch, batch_idx)

    rules = [
        Rule("late", "mine", above=2.5),
        # a value that stays is one reading, however often it is looked at
        Rule("epochs", "on_epoch", above=9.5, for_readings=2),
    ]
    monitor = CurvatureMonitor(["step_geometry"], every_n_steps=100, rules=rules)
    fit(Logs(), monitor, max_epochs=3)
    assert [(a.rule, a.step) for a in monitor.alerts] == [("late", 3)]


def test_a_metric_that_never_comes_is_told(tmp_path: Path) -> None:
    monitor = CurvatureMonitor(rules=[Rule("typo", "train_los", above=1.0)], every_n_steps=1)
    with told() as warnings:
        fit(Classifier(), monitor, logger=ListLogger())
    assert warnings == ["curvwatch: a rule watches 'train_los', which was never logged in this run"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lower_lr(2.0), "factor=2.0: for lower_lr a number between 0 and 1 is needed"),
        (lambda: warmup_again(0), "steps=0: for warmup_again a number of steps, 1 or more"),
        (lambda: warmup_again(5, start=0.0), "start=0.0: for warmup_again a number between 0 and 1"),
    ],
)
def test_bad_actions_are_quoted(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_loop_of_your_own_lowers_its_rate_too() -> None:
    net = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    schedule = lr_scheduler.LambdaLR(optimizer, lambda t: 1.0)
    loss_fn = lambda model, batch: model(batch).square().mean()  # noqa: E731
    options: dict[str, Any] = {"rules": [ONCE], "on_alert": lower_lr(0.5), "schedulers": [schedule]}
    with Watch(net, optimizer, loss_fn, every_n_steps=1, on_error="raise", **options) as watched:
        for batch in torch.randn(4, 8, 2):
            loss_fn(net, batch).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            watched.step(batch)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    assert math.isclose(schedule.get_last_lr()[0], 0.05)


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
def test_a_webhook_is_called_by_apprise(monkeypatch: pytest.MonkeyPatch) -> None:
    apprise = pytest.importorskip("apprise")
    from curvwatch import webhook

    sent: list[tuple[str, str]] = []
    monkeypatch.setattr(
        apprise.Apprise, "notify", lambda self, body, title: sent.append((title, body)) or True
    )
    monitor = alerting(webhook("json://localhost/secret"))
    fit(Classifier(), monitor)
    assert sent == [("curvwatch: too long", str(monitor.alerts[0]))]

    monkeypatch.setattr(apprise.Apprise, "notify", lambda self, body, title: False)
    with told() as warnings:
        fit(
            Classifier(),
            CurvatureMonitor(rules=[ONCE], every_n_steps=1, on_alert=webhook("json://x/secret")),
        )
    assert len(warnings) == 1
    assert "the webhook (json) refused the alert" in warnings[0]
    assert "secret" not in warnings[0]
    with pytest.raises(ValueError, match="not an address that apprise supports"):
        webhook("nonsense")


def test_a_saved_configuration_names_an_action_by_its_public_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that it can be read after modules have moved."""
    jsonargparse = pytest.importorskip("jsonargparse")
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(CurvatureMonitor, "monitor")
    action = {"class_path": "curvwatch.lower_lr", "init_args": {"factor": 0.5}}
    config = parser.parse_object({"monitor": {"on_alert": action}})
    assert parser.parse_string(parser.dump(config)).monitor.on_alert.as_dict() == action
    assert isinstance(parser.instantiate_classes(config).monitor, CurvatureMonitor)
