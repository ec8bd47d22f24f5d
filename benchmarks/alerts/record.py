"""Runs of the grid with a monitor that reads every step, kept as one file a run."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from benchmarks.alerts.grid import Config
from benchmarks.alerts.ladder import make_optimizer
from benchmarks.alerts.tasks import TASKS
from benchmarks.trainers import silence
from benchmarks.workloads import Batch
from curvwatch import CurvatureMonitor
from curvwatch.measures import Measure, Sharpness, StepGeometry
from curvwatch.results.alerts import AlertEngine

# a run whose loss is not finite for so many steps is over
_LAST_WORDS = 3
# steps between two readings of the landscape; 10 where nothing else is said
_LANDSCAPE = {"mlp": 5, "gpt": 25}


@dataclass(frozen=True)
class Record:
    """What a run was, and what could be known after each of its steps.

    Attributes:
        config: of the run.
        loss: of each training batch before its step, shape (steps,).
        gradient_norm: before clipping, shape (steps,).
        rate: learning rate of each step, shape (steps,).
        values: metrics that may raise an alert, each of shape (steps,); nan where there is no reading.
        broken: (step, quantity, value) of what was not finite.
    """

    config: Config
    loss: np.ndarray
    gradient_norm: np.ndarray
    rate: np.ndarray
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    broken: tuple[tuple[int, str, float], ...] = ()

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self.loss)

    def metric(self, name: str) -> np.ndarray:
        """One metric, shape (steps,); all nan if it was never read."""
        return self.values.get(name, np.full(self.steps, math.nan))

    def save(self, folder: Path) -> Path:
        """Write it as a whole or not at all."""
        path = path_of(folder, self.config)
        told = {"config": self.config.to_dict(), "names": list(self.values), "broken": self.broken}
        table = np.stack([*self.values.values()]) if self.values else np.empty((0, self.steps))
        unfinished = path.with_name(f".{os.getpid()}.{path.name}")
        series = {"loss": self.loss, "gradient_norm": self.gradient_norm, "rate": self.rate}
        np.savez_compressed(unfinished, told=json.dumps(told), table=table, **series)
        unfinished.replace(path)
        return path

    @classmethod
    def load(cls, path: Path) -> Record:
        """Read what `save` wrote."""
        with np.load(path) as file:
            told = json.loads(str(file["told"]))
            return cls(
                config=Config(**told["config"]),
                loss=file["loss"],
                gradient_norm=file["gradient_norm"],
                rate=file["rate"],
                values=dict(zip(told["names"], file["table"], strict=True)),
                broken=tuple((int(s), str(n), float(v)) for s, n, v in told["broken"]),
            )


def path_of(folder: Path, config: Config) -> Path:
    """Where the record of `config` is."""
    return folder / f"{config.seed:04d}.npz"


def recorded(config: Config, *, landscape: bool = True) -> Record:
    """Run `config` with a monitor; without `landscape` it reads the steps alone."""
    every = _LANDSCAPE.get(config.task, 10)
    measures: list[Measure] = [StepGeometry(every_n_steps=1)]
    if landscape:
        measures.append(Sharpness(every_n_steps=every))
    monitor = CurvatureMonitor(measures, rules=[])
    with _overheard() as seen:
        kept = fit(config, monitor)
    steps = len(kept.losses)
    values: dict[str, np.ndarray] = {}
    broken = []
    for step, read, bad in seen:
        for name, value in read.items():
            if "cost_" not in name:
                values.setdefault(name, np.full(steps, math.nan))[step] = value
        broken += [(step, name, float(value)) for name, value in bad]
    return Record(
        config=config,
        loss=np.array(kept.losses),
        gradient_norm=np.array(kept.norms),
        rate=np.array(kept.rates),
        values=values,
        broken=tuple(broken),
    )


def is_untouched(config: Config) -> bool:
    """Whether losses and gradients are bit for bit those of a run without a monitor."""
    record, alone = recorded(config), fit(config)
    same = zip((record.loss, record.gradient_norm), (alone.losses, alone.norms), strict=True)
    return all(np.array_equal(a, np.array(b), equal_nan=True) for a, b in same)


def fit(config: Config, *callbacks: L.Callback) -> Kept:
    """Train `config` and keep losses, norms of gradients and learning rates."""
    silence()
    torch.manual_seed(config.seed)
    kept = Kept()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(
            max_steps=config.steps,
            accelerator="cpu",
            devices=1,
            logger=False,
            callbacks=[*callbacks, kept],
            gradient_clip_val=config.clip or None,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.fit(Module(config), DataLoader(batches(config), batch_size=None))  # type: ignore[arg-type]
    return kept


def batches(config: Config) -> list[Batch]:
    """All training batches, one of them perhaps spoilt."""
    task = TASKS[config.task]
    generator = torch.Generator().manual_seed(config.seed)
    made = [task.batch(generator) for _ in range(config.steps)]
    if config.way:
        made[config.fault_at] = task.spoilt(made[config.fault_at], config.way, generator)
    return made


class Module(L.LightningModule):
    """The task of `config`, with its optimizer and learning rates."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.task = TASKS[config.task]
        self.net = self.task.net()

    def training_step(self, batch: Batch) -> Tensor:
        """The loss of the batch."""
        x, y = batch
        return self.task.loss(self.net(x), y)

    def configure_optimizers(self) -> Any:
        """Optimizer and schedule."""
        c = self.config
        optimizer: Optimizer
        if c.optimizer in ("sgd", "momentum") and c.b2:
            optimizer = SGD(self.parameters(), lr=1.0, momentum=c.b2)
        else:
            optimizer = make_optimizer(c.optimizer, self.parameters(), 1.0, b2=c.b2, eps=c.eps)
        schedule = LambdaLR(optimizer, c.rate_at)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step", "frequency": 1},
        }


class Kept(L.Callback):
    """Keeps loss, norm of the gradient and learning rate of each step; ends a run that is lost."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.rates: list[float] = []

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Before the gradient is clipped."""
        gradients = [p.grad.double() for p in pl_module.parameters() if p.grad is not None]
        self.norms.append(math.sqrt(sum(float(g.square().sum()) for g in gradients)))
        self.rates.append(float(optimizer.param_groups[0]["lr"]))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any
    ) -> None:
        """After each step."""
        self.losses.append(float(outputs["loss"]))
        if not any(map(math.isfinite, self.losses[-_LAST_WORDS:])):
            trainer.should_stop = True


Seen = list[tuple[int, dict[str, float], list[tuple[str, float]]]]


@contextmanager
def _overheard() -> Iterator[Seen]:
    """What engines are shown: of doubtful readings they are told nothing."""
    seen: Seen = []
    observe = AlertEngine.observe

    def listening(
        self: AlertEngine, step: int, values: Mapping[str, float], broken: Any = (), **others: Any
    ) -> Any:
        bad = list(broken)
        seen.append((step, dict(values), bad))
        return observe(self, step, values, bad, **others)

    AlertEngine.observe = listening  # type: ignore[assignment, method-assign]
    try:
        yield seen
    finally:
        AlertEngine.observe = observe  # type: ignore[method-assign]
