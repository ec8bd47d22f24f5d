"""The examples, as a user runs them, for a few steps; and every snippet of the documentation."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from wandb.proto.wandb_internal_pb2 import Record

from curvwatch import CurvatureMonitor
from tests.support.paths import ROOT

EXAMPLES = ROOT / "examples"
SNIPPETS = [
    pytest.param(code, id=f"{page}-{i}")
    for page in ("README.md", "docs/architecture.md", "docs/usage.md", "docs/stability.md")
    for i, code in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S), 1)
]


def run(name: str, steps: int, cwd: Path) -> str:
    """Output of an example that was run for `steps` steps in `cwd`, offline, warnings as errors."""
    environment = {**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:curvwatch", EXAMPLES / name, str(steps)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "CurvwatchWarning" not in done.stderr
    return done.stdout


def history_of(log: Path) -> list[dict[str, Any]]:
    """The logged rows of an offline run: a LevelDB log of 32 KiB blocks, after a header of 7 bytes."""
    data, at, record, rows = log.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        room = 2**15 - at % 2**15
        if room < 7:  # the rest of a block is blank
            at += room
            continue
        _, length, part = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if part in (1, 4):  # whole, or the last part
            parsed = Record.FromString(record)
            record = b""
            if parsed.WhichOneof("record_type") == "history":
                items = parsed.history.item
                rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short_and_say_how_they_are_run(example: Path) -> None:
    text = example.read_text()
    assert text.count("\n") < 73
    assert f"python examples/{example.name}" in text.split('"""')[1]


# three trainings, of which `curvwatch demo` has the same
@pytest.mark.study
def test_digits(tmp_path: Path) -> None:
    printed = run("digits.py", 41, tmp_path)
    for name in ("sgd", "momentum", "adam"):
        logs = EventAccumulator(str(tmp_path / "runs" / "digits" / name / "version_0"))
        logs.Reload()
        ratios = logs.Scalars("curvature/stability_ratio")
        assert [e.step for e in ratios] == [0, 20, 40]
        assert (
            re.search(rf"^{name}: stability ratio (.*)$", printed, re.M)[1] == f"{ratios[-1].value:.2f}"
        )
        assert logs.Scalars("step/directional_sharpness")


# logs of W&B, and a loop with Fabric: `tests/results/loggers` and `tests/training/loop` have either
@pytest.mark.study
def test_wandb_digits(tmp_path: Path) -> None:
    run("wandb_digits.py", 41, tmp_path)
    (log,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    rows = history_of(log)
    steps = [row["trainer/global_step"] for row in rows if "curvature/sharpness" in row]
    assert steps == [20, 40]  # the probe is complete from the fourth batch on
    assert all(row["curvature/sharpness"] > 0 for row in rows if "curvature/sharpness" in row)
    assert [row["trainer/global_step"] for row in rows if "step/loss_change" in row] == [0, 20, 40]


# six trainings, of which `digits.py` and `curvwatch demo` have three
@pytest.mark.study
def test_compare_optimizers(tmp_path: Path) -> None:
    printed = run("compare_optimizers.py", 51, tmp_path)
    names = ("sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop")
    for name in names:
        folder = tmp_path / "runs" / "compare" / name / "version_0"
        logs = EventAccumulator(str(folder)).Reload()
        # of the same gradients and readings; the probe is complete from the second batch on
        assert [e.step for e in logs.Scalars("step/loss_change")] == [0, 50]
        losses = logs.Scalars("curvature/loss")
        assert [e.step for e in losses] == [50]
        assert re.search(rf"^{name}: loss {losses[-1].value:.3f}, ", printed, re.M)
        header, *_ = (folder / "metrics.csv").read_text().splitlines()
        assert "curvature/sharpness" in header.split(",")
    assert printed.splitlines()[-1] == "curvwatch compare runs/compare -o report.html"


def test_plain(tmp_path: Path) -> None:
    printed = run("plain.py", 301, tmp_path)
    # the probe is complete from the fourth step on
    read = re.findall(r"^step (\d+): sharpness (\S+)$", printed, re.M)
    assert [int(step) for step, _ in read] == [100, 200, 300]
    assert all(0 < float(value) < 50 for _, value in read)


@pytest.mark.study
def test_fabric(tmp_path: Path) -> None:
    printed = run("fabric.py", 201, tmp_path)
    read = re.findall(r"^step (\d+): stability ratio (\S+)$", printed, re.M)
    assert [step for step, _ in read] == ["0", "100", "200"]
    (log,) = (tmp_path / "runs" / "fabric").glob("version_0/metrics.csv")
    header, *rows = log.read_text().splitlines()
    column = header.split(",").index("curvature/stability_ratio")
    logged = [float(row.split(",")[column]) for row in rows]
    assert [f"{value:.2f}" for value in logged] == [value for _, value in read]


class Small(pl.LightningModule):
    """What the documentation calls `model`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 1)

    def training_step(self, batch):
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("code", SNIPPETS)
def test_snippets_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    defaults = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    names = {
        "CurvatureMonitor": CurvatureMonitor,
        "L": SimpleNamespace(Trainer=partial(pl.Trainer, **defaults)),
        "model": Small(),
        "loader": DataLoader(TensorDataset(torch.randn(640, 3)), batch_size=2),
    }
    exec(compile(code, "snippet", "exec"), names)
    if "savefig" in code:
        assert (tmp_path / "curvature.png").stat().st_size > 10_000
        assert list(names["steps"]) == [100, 200]
    if "NegativeCurvature" in code:
        monitor = CurvatureMonitor(measures=["sharpness", names["NegativeCurvature"]], every_n_steps=10)
        pl.Trainer(max_steps=11, callbacks=[monitor], **defaults).fit(names["model"], names["loader"])
        assert list(monitor.history["curvature/smallest"].steps) == [0, 10]
