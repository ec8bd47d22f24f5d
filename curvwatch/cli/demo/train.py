"""One run of the demo, with a progress bar and without Lightning's messages."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader

from curvwatch.cli.demo.digits import Batch, DemoRun, DigitsNet
from curvwatch.monitor import CurvatureMonitor
from curvwatch.results import History

# often, for smooth curves: the default, a budget of 5 % of the time, would read every 500 steps
EVERY_N_STEPS = 20


def train(run: DemoRun, batch: Batch, *, steps: int, folder: Path, progress: Progress) -> History:
    """Train on `batch` over and over, log to `folder`, and return all readings."""
    L.seed_everything(0, verbose=False)
    monitor = CurvatureMonitor(every_n_steps=EVERY_N_STEPS)
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        logger=TensorBoardLogger(folder.parent, name="", version=folder.name),
        log_every_n_steps=EVERY_N_STEPS,
        callbacks=[monitor, _Bar(progress, run.label, steps)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    # one long epoch: the ends of a thousand short ones would take longer than the steps
    loader: DataLoader[Batch] = DataLoader(cast(Any, [batch] * steps), batch_size=None)
    trainer.fit(DigitsNet(run.optimizer), loader)
    return monitor.history


def progress_bar(console: Console) -> Progress:
    """One line for each run."""
    return Progress(
        TextColumn("{task.description:>8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[latest]}"),
        TimeRemainingColumn(),
        console=console,
    )


class _Bar(L.Callback):
    """Shows the steps and the latest readings."""

    def __init__(self, progress: Progress, label: str, steps: int) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=steps, latest="")

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        latest = trainer.callback_metrics
        self._progress.update(
            self._task,
            completed=trainer.global_step,
            latest=f"sharpness {latest['curvature/sharpness']:5.2f}, "
            f"ratio to the edge {latest['curvature/stability_ratio']:4.2f}"
            if "curvature/stability_ratio" in latest
            else "",
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's messages, not those of curvwatch; one thread, as the network is small."""
    # whichever of the two namespaces was imported last prints for both
    names = ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # advice on workers and tips: the data is in memory
            warnings.filterwarnings("ignore", module=r"(lightning|pytorch_lightning|torch)(\.|$)")
            yield
    finally:
        torch.set_num_threads(threads)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
