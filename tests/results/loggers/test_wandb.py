"""A run with W&B, offline, read back from the file that would be sent."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import WandbLogger

from curvwatch import CurvatureMonitor, Rule
from tests.support.modules import LANDSCAPE, STEP, Classifier, fit

wandb = pytest.importorskip("wandb")

ALWAYS = Rule("always", "step/stability_ratio", above=-1e9, for_readings=2, meaning="for this test")


def records(file: Path) -> Iterator[Any]:
    """LevelDB's log format after 7 bytes: blocks of 32 KiB, records with a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def grouped(params: Any) -> torch.optim.Optimizer:
    first, *rest = params
    return torch.optim.Adam(
        [{"params": [first], "lr": 0.02}, {"params": rest, "name": "rest"}], lr=0.01
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[CurvatureMonitor, list[Any], Path]:
    """One run, for all tests here: starting W&B takes seconds."""
    directory = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as env:
        env.setenv("WANDB_SILENT", "true")
        env.setenv("WANDB_CONSOLE", "off")
        logger = WandbLogger(project="test", save_dir=directory, offline=True)
        monitor = CurvatureMonitor(every_n_steps=2, rules=[ALWAYS])
        fit(Classifier(optimizer=grouped), monitor, logger=logger)
        wandb.finish()
        wandb.teardown()
    (file,) = directory.glob("wandb/offline-run-*/*.wandb")
    return monitor, list(records(file)), file.parent


def history(run: Any, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of a metric as W&B would chart it."""
    rows = []
    for record in run[1]:
        if record.WhichOneof("record_type") == "history":
            row = {
                i.nested_key[0] if i.nested_key else i.key: i.value_json for i in record.history.item
            }
            if name in row:
                rows.append((json.loads(row["trainer/global_step"]), json.loads(row[name])))
    return [step for step, _ in rows], [value for _, value in rows]


def logged(run: Any, name: str) -> tuple[int, Any]:
    """Step and content of what was logged once as `name`."""
    for record in run[1]:
        if record.WhichOneof("record_type") == "history":
            items = {tuple(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            content = {keys[1]: value for keys, value in items.items() if keys[0] == name}
            if content:
                return items[("trainer/global_step",)], content
    raise AssertionError(f"{name} was not logged")


def test_the_config_has_the_hyperparameters_of_the_optimizer(run: Any) -> None:
    records = [r.config for r in run[1] if r.WhichOneof("record_type") == "config"]
    config = {u.key: json.loads(u.value_json) for record in records for u in record.update}
    assert config["curvwatch"] == {
        "optimizer/class": "Adam",
        "optimizer/lr/pg1": 0.02,
        "optimizer/lr/rest": 0.01,
        "optimizer/beta1": 0.9,
        "optimizer/beta2": 0.999,
        "optimizer/eps": 1e-8,
        "optimizer/weight_decay": 0.0,
        "optimizer/amsgrad": False,
    }


def test_the_alerts_are_a_table(run: Any) -> None:
    monitor, _, folder = run
    step, table = logged(run, "curvwatch/alerts")
    assert (step, table["_type"]) == (4, "table-file")
    content = json.loads((folder / "files" / table["path"]).read_text())
    assert content["columns"] == ["step", "rule", "metric", "value", "meaning"]
    (alert,) = monitor.alerts
    assert content["data"] == [[alert.step, alert.rule, alert.metric, alert.value, alert.text]]


def test_the_story_is_an_image(run: Any) -> None:
    _, _, folder = run
    step, image = logged(run, "curvwatch/run")
    assert step == 4
    assert (image["_type"], image["width"], image["height"]) == ("image-file", 1600, 800)
    assert (folder / "files" / image["path"]).stat().st_size > 10_000


def test_values_and_steps_are_those_of_the_history(run: Any) -> None:
    monitor, *_ = run
    assert set(monitor.history) == LANDSCAPE | STEP | {"curvature/edge/pg1", "curvature/edge/rest"}
    for name in monitor.history:
        expected = monitor.history[name]
        steps, values = history(run, name)
        assert steps == expected.steps.tolist() == [0, 2, 4], name
        np.testing.assert_array_equal(np.array(values, dtype=float), expected.values)


def test_each_metric_has_a_summary_and_the_x_axis(run: Any) -> None:
    monitor, all_records, _ = run
    defined = {
        r.metric.name: (r.metric.step_metric, r.metric.summary.max, r.metric.summary.last)
        for r in all_records
        if r.WhichOneof("record_type") == "metric"
    }
    assert {name: defined.get(name) for name in monitor.history} == dict.fromkeys(
        monitor.history, ("trainer/global_step", True, True)
    )
    ours = {name for name in defined if name.startswith(("curvature/", "step/"))}
    assert ours == set(monitor.history)


def test_an_alert_is_sent_once_with_its_numbers_in_the_text(run: Any) -> None:
    monitor, all_records, _ = run
    (alert,) = [r.alert for r in all_records if r.WhichOneof("record_type") == "alert"]
    assert alert.title == "curvwatch: always"
    assert alert.level == "WARN"
    assert alert.text == str(monitor.alerts[0])
    assert alert.text.startswith("step 2: step/stability_ratio is ")
