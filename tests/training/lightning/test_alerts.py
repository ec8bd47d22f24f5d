"""Alerts: the rules on made-up series, and on runs that really diverge."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F

from curvwatch import Alert, CurvatureMonitor, Rule
from curvwatch.results.alerts import DEFAULT_RULES, NOT_FINITE, AlertEngine
from tests.support.modules import CLASSES, FEATURES, Classifier, ListLogger, batches, fit, told

RATIO, RISE = "step/stability_ratio", "step/relative_loss_change"
DIVERGENCE = Rule("divergence", RATIO, above=1.5, for_readings=3, meaning="lower the learning rate")


# the rule by itself


def fired(series: list[float], engine: AlertEngine | None = None, metric: str = RATIO) -> list[int]:
    """Positions in `series` at which the divergence rule begins to fire."""
    engine = engine or AlertEngine([DIVERGENCE])
    return [i for i, value in enumerate(series) if engine.observe(i, {metric: value})]


@pytest.mark.parametrize(
    ("series", "at"),
    [
        ([1.6, 1.6, 1.6, 1.6], [2]),
        ([1.6, 1.6], []),
        ([1.5] * 9, []),
        ([1.4, 9.0, 1.4, 1.4], []),  # a spike alone
        ([0.1, 9.0, 0.1, 9.0], [3]),
        ([9.0, 9.0, math.nan, 0.1], [3]),  # a missing value does not count
        ([math.nan] * 9, []),
        ([9.0, 9.0, 9.0, 0.1, 0.1, 9.0, 9.0], [2, 6]),  # over, and again
        ([math.inf] * 3, [2]),
        ([-9.0] * 9, []),
    ],
)
def test_the_median_of_three_readings_is_compared(series: list[float], at: list[int]) -> None:
    assert fired(series) == at


@pytest.mark.parametrize(
    ("ratios", "rises", "rule"),
    [
        ([0.5, 0.5], [0.0, 1.6], "spike ahead"),
        ([0.5, 0.5], [0.0, 1.4], None),
        ([9.0, 9.0], [0.6, 0.6], "divergence ahead"),
        ([9.0, 9.0], [0.6, 0.3], None),  # the median of both is .45
        ([0.9, 0.9], [0.6, 0.6], None),  # it rises for another reason than too long a step
        ([1.6, 1.6, 1.6], [0.2, 0.0, 0.2], "slow divergence ahead"),
        ([1.6, 1.6], [0.2, 0.2], None),
        ([1.6, 1.2, 1.2], [0.2, 0.2, 0.2], None),
        ([9.0] * 9, [-0.1] * 9, None),  # the edge: steps overshoot, and the loss falls all the same
        ([math.nan] * 9, [math.nan] * 9, None),
    ],
)
def test_the_default_rules(ratios: list[float], rises: list[float], rule: str | None) -> None:
    engine = AlertEngine()
    for i, (ratio, rise) in enumerate(zip(ratios, rises, strict=True)):
        engine.observe(i, {RATIO: ratio, RISE: rise})
    assert [alert.rule for alert in engine.alerts] == ([] if rule is None else [rule])


def test_an_alert_says_what_was_seen_and_what_helps() -> None:
    engine = AlertEngine([DIVERGENCE])
    fired([1.0, 2.0, 3.0], engine)
    (alert,) = engine.alerts
    assert alert == Alert("divergence", RATIO, 2, 2.0, alert.text)
    assert str(alert).startswith("step 2: step/stability_ratio is 2, over 1.5 (median of the last 3")
    assert "lower the learning rate" in str(alert)


def test_each_optimizer_has_a_state_of_its_own() -> None:
    engine = AlertEngine([DIVERGENCE])
    for step in range(4):
        engine.observe(step, {f"{RATIO}-SGD": 2.0 if step > 1 else 0.0, f"{RATIO}-Adam": 2.0})
    assert [(a.metric, a.step) for a in engine.alerts] == [(f"{RATIO}-Adam", 2), (f"{RATIO}-SGD", 3)]
    assert fired([9.0] * 3, metric=f"{RATIO}_of_another") == []


def test_not_finite_is_told_once_until_all_is_finite_again() -> None:
    engine = AlertEngine()
    nan = math.nan
    observed = [
        engine.observe(0, {"curvature/loss": nan}, [("curvature/loss", nan)]),
        engine.observe(
            0, {"step/loss_change": nan}, [("step/loss_change", nan), ("training loss", nan)]
        ),
        engine.observe(1, {}),  # nothing was looked at
        engine.observe(2, {"curvature/loss": 1.0}, finite=["training loss"]),
        engine.observe(2, {}, [("training loss", nan)]),  # step/loss_change is still broken
        engine.observe(3, {"step/loss_change": 1.0}, finite=["training loss"]),
        engine.observe(4, {}, [("training loss", nan)]),
    ]
    assert [bool(alerts) for alerts in observed] == [True, *[False] * 5, True]
    assert [a.rule for a in engine.alerts] == [NOT_FINITE] * 2
    assert engine.alerts[0].text == (
        "curvature/loss is nan: the loss, or a derivative of it, is not finite"
    )


def test_an_engine_that_was_saved_goes_on_and_does_not_fire_again() -> None:
    whole, first, second = (
        AlertEngine([DIVERGENCE]),
        AlertEngine([DIVERGENCE]),
        AlertEngine([DIVERGENCE]),
    )
    series = [9.0, 9.0, 9.0, 9.0, 0.0, 0.0, 9.0, 9.0]
    assert fired(series, whole) == [2, 7]
    for cut in range(len(series)):
        first, second = AlertEngine([DIVERGENCE]), AlertEngine([DIVERGENCE])
        fired(series[:cut], first)
        second.load_state_dict(first.state_dict())
        for step in range(cut, len(series)):
            second.observe(step, {RATIO: series[step]})
        assert second.alerts == whole.alerts
    broken, again = AlertEngine([DIVERGENCE]), AlertEngine([DIVERGENCE])
    broken.observe(0, {}, [("training loss", math.nan)])
    again.load_state_dict(broken.state_dict())
    assert not again.observe(1, {}, [("training loss", math.nan)])


def test_a_rule_of_your_own() -> None:
    sharp = Rule("sharp", "curvature/sharpness", above=10, for_readings=1, meaning="it is sharp")
    engine = AlertEngine([sharp])
    engine.observe(0, {"curvature/sharpness": 11.0, RATIO: 99.0})
    assert [a.text for a in engine.alerts] == ["curvature/sharpness is 11, over 10: it is sharp"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_alert": "halt"}, "on_alert='halt': a function of one Alert, 'stop', 'checkpoint'"),
        ({"on_alert": ["stop", 3]}, "on_alert=3: a function of one Alert"),
        ({"on_alert": 3}, "on_alert=3: a function of one Alert"),
        ({"rules": ["divergence"]}, r"rules holds 'divergence': a curvwatch.Rule\(name="),
        ({"alerts": "some"}, "alerts='some': one of 'default', 'research', 'off' is needed"),
        ({"rules": DEFAULT_RULES * 2}, "the rule name 'spike ahead' is already in use"),
        (
            {"rules": [Rule("not_finite", RATIO, 1, 1, "")]},
            "the rule name 'not_finite' is already in use",
        ),
    ],
)
def test_bad_arguments_are_quoted(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CurvatureMonitor(**options)


def test_a_rule_needs_a_reading() -> None:
    with pytest.raises(ValueError, match="for_readings=0: a number of readings, 1 or more, is needed"):
        Rule("x", RATIO, above=1, for_readings=0, meaning="")


# real runs


class Regression(Classifier):
    """Full-batch least squares; the learning rate jumps by `factor` at step 40."""

    def __init__(self, factor: float) -> None:
        super().__init__(nn.Sequential(nn.Linear(FEATURES, 32), nn.Tanh(), nn.Linear(32, CLASSES)))
        self.factor = factor

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return (self.net(x) - F.one_hot(y, CLASSES)).square().sum(dim=1).mean() / 2

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.3)
        jump = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: self.factor if t >= 40 else 1.0)
        return [optimizer], [{"scheduler": jump, "interval": "step"}]


class Ends(Callback):
    """Counts how a run ends."""

    def __init__(self) -> None:
        self.ended = 0
        self.failed = 0

    def on_train_end(self, *_: Any) -> None:
        self.ended += 1

    def on_exception(self, *_: Any) -> None:
        self.failed += 1


def watch(**options: Any) -> CurvatureMonitor:
    options = {"rules": [DIVERGENCE], **options}
    return CurvatureMonitor(["step_geometry"], every_n_steps=1, **options)


def diverge(
    monitor: CurvatureMonitor, *callbacks: Callback, factor: float = 8.0, **options: Any
) -> Any:
    torch.manual_seed(0)
    options = {"max_steps": 50, "data": batches(64, batch_size=64), **options}
    return fit(Regression(factor), monitor, *callbacks, **options)


def test_a_diverging_run_is_told_before_its_loss_is_ten_times_up(caplog: Any) -> None:
    calls: list[Alert] = []
    monitor, logger = watch(on_alert=calls.append), ListLogger()
    with caplog.at_level(logging.WARNING, "curvwatch"):
        trainer = diverge(monitor, logger=logger)
    losses = np.array(logger.values("train_loss"))
    assert losses[:40].argmin() == 39
    (alert,) = monitor.alerts
    lost = int(np.argmax(losses > 10 * losses[39]))
    assert 40 < alert.step < lost
    assert alert.value > 1.5
    assert [r.getMessage() for r in caplog.records] == [f"curvwatch alert, {alert}"]
    assert calls == [alert]
    assert trainer.global_step == 50  # it was told, no more


def test_a_healthy_run_is_left_in_peace(caplog: Any) -> None:
    monitor = watch()
    diverge(monitor, factor=1.0, max_steps=80)
    assert monitor.alerts == []
    assert caplog.records == []


def test_stop_ends_the_run_cleanly(tmp_path: Path) -> None:
    ends, checkpoint = Ends(), ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1)
    monitor = watch(on_alert="stop")
    trainer = diverge(monitor, ends, checkpoint, enable_checkpointing=True)
    (alert,) = monitor.alerts
    assert trainer.global_step == alert.step + 1
    assert (ends.ended, ends.failed) == (1, 0)
    saved = torch.load(checkpoint.last_model_path, weights_only=True)
    assert saved["global_step"] == alert.step + 1
    assert trainer.interrupted is False


def test_a_list_does_several_things_and_goes_on_after_one_that_raises() -> None:
    calls: list[Alert] = []

    def broken(alert: Alert) -> None:
        raise ConnectionError("no network")

    monitor = watch(on_alert=[broken, "stop", calls.append])
    with told() as warnings:
        trainer = diverge(monitor)
    assert warnings == [
        "curvwatch: on_alert='broken' failed: ConnectionError: no network. Training goes on"
    ]
    assert calls == monitor.alerts
    assert trainer.global_step == calls[0].step + 1


def test_an_error_of_a_function_is_raised_on_request() -> None:
    def broken(alert: Alert) -> None:
        raise ConnectionError("no network")

    with pytest.raises(ConnectionError, match="no network"):
        diverge(watch(on_alert=broken, on_error="raise"))


@pytest.mark.parametrize("measures", [None, ["sharpness"], ["step_geometry"], []])
@pytest.mark.parametrize("every_n_steps", [1, 7])
def test_a_loss_that_is_not_finite_is_told_once(measures: Any, every_n_steps: int) -> None:
    class Overflows(Classifier):
        def loss(self, batch: Any) -> Tensor:
            return super().loss(batch) * (math.inf if self.trainer.global_step >= 3 else 1.0)

    monitor, logger = CurvatureMonitor(measures, every_n_steps=every_n_steps), ListLogger()
    trainer = fit(Overflows(), monitor, logger=logger, max_epochs=2)
    assert trainer.global_step == 12
    (alert,) = monitor.alerts
    assert alert.rule == NOT_FINITE
    assert alert.step == 3
    assert not math.isfinite(alert.value)
    if every_n_steps == 1 and measures is None:
        assert logger.steps("curvature/loss") == logger.steps("step/loss_change") == list(range(12))


def test_a_batch_that_is_not_finite_is_told_again_when_there_is_another() -> None:
    class Spoiled(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) + (math.nan if batch_idx in (1, 4) else 0)

    monitor = CurvatureMonitor(every_n_steps=1)
    fit(Spoiled(), monitor)
    assert [a.step for a in monitor.alerts] == [1, 4]
    # the probe is the first batch, and the weights are unharmed: its readings go on
    assert np.isfinite(monitor.history["curvature/sharpness"].values).all()


def test_tensorboard_shows_alerts_as_text(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger, monitor = TensorBoardLogger(tmp_path), watch()
    diverge(monitor, logger=logger)
    read = EventAccumulator(logger.log_dir, size_guidance={"tensors": 0}).Reload()
    (event,) = read.Tensors("curvwatch/alerts/text_summary")
    assert event.step == monitor.alerts[0].step
    (alert,) = monitor.alerts
    row = event.tensor_proto.string_val[0].decode().splitlines()[2]
    assert row.startswith(f"| {alert.step} | divergence | ")
    assert f" | {alert.value:.4g} | " in row


def test_a_logger_that_fails_costs_a_warning() -> None:
    class Full(ListLogger):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            if any(name.startswith("curvature/") for name in metrics):
                raise OSError("disk full")
            super().log_metrics(metrics, step)

    monitor, logger = CurvatureMonitor(every_n_steps=1), Full()
    with told() as warnings:
        fit(Classifier(), monitor, logger=logger)
    assert warnings == [
        "curvwatch: logging a reading to Full failed: OSError: disk full. Training goes on"
    ]
    assert len(monitor.history["curvature/sharpness"].steps) == 6
    assert len(logger.steps("train_loss")) == 6
