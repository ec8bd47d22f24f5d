"""CURVWATCH=1 puts a monitor into every Trainer; anything else does nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning

from curvwatch import CurvatureMonitor
from tests.support.modules import Classifier, ClassifierMixin, ListLogger, batches, fit

NAMESPACES = [lightning.pytorch, pytorch_lightning]


def monitors(trainer: Any) -> list[CurvatureMonitor]:
    return [c for c in trainer.callbacks if isinstance(c, CurvatureMonitor)]


def trainer_of(pl: Any, *callbacks: Any) -> Any:
    return pl.Trainer(
        callbacks=list(callbacks),
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@pytest.mark.parametrize("value", [None, "", "0", "true"])
@pytest.mark.parametrize("pl", NAMESPACES)
def test_nothing_happens_without_it(pl: Any, value: str | None, monkeypatch: Any) -> None:
    if value is None:
        monkeypatch.delenv("CURVWATCH", raising=False)
    else:
        monkeypatch.setenv("CURVWATCH", value)
    assert monitors(trainer_of(pl)) == []


@pytest.mark.filterwarnings("ignore:curvwatch. the Trainer has no logger")
@pytest.mark.parametrize("pl", NAMESPACES)
def test_a_trainer_without_callbacks_reads(pl: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("CURVWATCH", "1")

    class Model(ClassifierMixin, pl.LightningModule):
        pass

    trainer = trainer_of(pl)
    trainer.fit(Model(), batches())
    (monitor,) = monitors(trainer)
    assert len(monitor.history["step/stability_ratio"])


class Brings(Classifier):
    """Has a monitor of its own."""

    def configure_callbacks(self) -> Any:
        return CurvatureMonitor(every_n_steps=2)


@pytest.mark.parametrize("by", ["trainer", "module"])
def test_it_leaves_the_field_to_the_user_s_own(by: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("CURVWATCH", "1")
    logger = ListLogger()
    if by == "trainer":
        trainer = fit(Classifier(), CurvatureMonitor(every_n_steps=2), logger=logger)
    else:
        trainer = fit(Brings(), logger=logger)
    (monitor,) = monitors(trainer)
    assert type(monitor) is CurvatureMonitor
    assert logger.steps("curvature/sharpness") == [0, 2, 4]


def test_a_checkpoint_resumes_it(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("CURVWATCH", "1")
    fit(Classifier(), max_steps=6).save_checkpoint(tmp_path / "last.ckpt")
    resumed = fit(Classifier(), max_steps=12, ckpt_path=tmp_path / "last.ckpt")
    (monitor,) = monitors(resumed)
    steps = monitor.history["step/stability_ratio"].steps
    assert steps[0] < 6 < steps[-1]


def test_a_trainer_without_it_imports_next_to_nothing() -> None:
    code = (
        "import sys, lightning.pytorch as pl\n"
        "before = set(sys.modules)\n"
        "pl.Trainer(logger=False, enable_checkpointing=False)\n"
        "new = set(sys.modules) - before\n"
        "assert 'curvwatch.factory' in new, new\n"
        "assert 'curvwatch.monitor' not in new, new\n"
        "others = {m.split('.')[0] for m in new} - {'curvwatch', 'torch', *sys.stdlib_module_names}\n"
        "assert not others, others\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
