"""Where the readings of a loop go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from curvwatch import Rule, Watch
from tests.support.modules import ListLogger, mlp, sgd
from tests.training.loop.loops import loop, loss_fn

ALWAYS = Rule("always", "step/update_norm", above=0.0, for_readings=1, meaning="")


def watched(logger: Any) -> Watch:
    net = mlp()
    optimizer = sgd(net.parameters())
    with Watch(
        net, optimizer, loss_fn, every_n_steps=3, logger=logger, rules=[ALWAYS], on_error="raise"
    ) as watch:
        loop(net, optimizer, watch=watch)
    return watch


def test_lightning_s_and_fabric_s_loggers(tmp_path: Path) -> None:
    rows, csv = ListLogger(), CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    watch = watched([rows, csv])
    assert rows.steps("curvature/sharpness") == rows.steps("step/loss_change") == [0, 3]
    assert rows.values("curvature/sharpness") == list(watch.history["curvature/sharpness"].values)
    header, *lines = Path(csv.log_dir, "metrics.csv").read_text().splitlines()
    assert "curvature/sharpness" in header.split(",")
    assert len(lines) == 2


def test_a_summary_writer(tmp_path: Path) -> None:
    with SummaryWriter(tmp_path) as writer:
        watch = watched(writer)
    logs = EventAccumulator(str(tmp_path))
    logs.Reload()
    events = logs.Scalars("step/loss_change")
    assert [e.step for e in events] == [0, 3]
    assert abs(events[1].value - watch.history["step/loss_change"].values[1]) < 1e-7
    assert "custom_scalars__config__" in logs.Tags()["tensors"]
    assert "curvwatch/alerts/text_summary" in logs.Tags()["tensors"]


class WandbRun:
    """Looks like W&B's."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.config = self
        self.hyperparameters: dict[str, Any] = {}
        self.defined: set[str] = set()
        self.alerts: list[str] = []
        self.summary: dict[str, Any] = {}

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def update(self, config: dict[str, Any], *, allow_val_change: bool) -> None:
        self.hyperparameters.update(config)

    def define_metric(self, name: str, *, step_metric: str, summary: str) -> None:
        assert step_metric == "trainer/global_step"
        self.defined.add(name)

    def alert(self, title: str, text: str, level: str) -> None:
        self.alerts.append(title)


def test_a_wandb_run() -> None:
    pytest.importorskip("wandb")
    WandbRun.__module__ = "wandb.sdk"
    run = WandbRun()
    watched(run)
    assert [row.pop("trainer/global_step") for row in run.rows] == [0, 3, 3, 3]
    assert run.defined == set(run.rows[0])
    assert [list(row) for row in run.rows[2:]] == [["curvwatch/alerts"], ["curvwatch/run"]]
    assert run.hyperparameters["curvwatch"]["optimizer/class"] == "SGD"
    assert run.alerts == ["curvwatch: always"]
