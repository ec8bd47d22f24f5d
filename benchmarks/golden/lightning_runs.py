"""Golden runs under a Trainer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.golden.nets import (
    FEATURES,
    LENGTH,
    Attention,
    Task,
    TwoByHand,
    loader,
    mlp,
    noisy_mlp,
    recorded,
    sgd,
    trainer,
)
from benchmarks.golden.values import Record
from curvwatch import CurvatureMonitor, Rule, StepGeometry, lower_lr
from curvwatch.measures import TopEigenvalues

_ROOT = Path(__file__).resolve().parents[2]
_RANKS, _LIMIT = 2, 120


def momentum() -> Record:
    """SGD with momentum, batch norm and dropout; the learning rate is so large that alerts fire."""
    torch.manual_seed(0)
    monitor = CurvatureMonitor(every_n_steps=1, alerts="research")
    return recorded(Task(noisy_mlp(), sgd(3.0, momentum=0.9)), monitor, loader(72), max_epochs=2)


def attention() -> Record:
    """AdamW with a schedule, gradient clipping, a rule that changes the learning rate."""
    torch.manual_seed(1)

    def configure(task: Task) -> Any:
        optimizer = torch.optim.AdamW(task.parameters(), lr=0.02, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=20)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    rule = Rule("mine", "train_loss", above=1.0, for_readings=2)
    monitor = CurvatureMonitor(
        every_n_steps=2, alerts="default", rules=[rule], on_alert=[lower_lr(0.5), "warn"]
    )
    data = loader(60, shape=(FEATURES, LENGTH))
    task = Task(Attention(), configure)
    return recorded(task, monitor, data, max_steps=20, gradient_clip_val=0.5)


def groups() -> Record:
    """Groups with learning rates of their own, one of them with another momentum."""
    torch.manual_seed(2)

    def configure(task: Task) -> Any:
        first, second = task.net[0], task.net[2]  # type: ignore[index]
        return torch.optim.SGD(
            [
                {"params": first.parameters(), "lr": 0.3, "name": "first"},
                {"params": second.parameters(), "lr": 0.05, "momentum": 0.5, "name": "second"},
            ]
        )

    monitor = CurvatureMonitor(
        ["sharpness", StepGeometry(curvature="secant"), "layer_curvature"], every_n_steps=1
    )
    return recorded(Task(mlp(), configure), monitor, loader(36), max_epochs=2)


def by_hand() -> Record:
    """Two optimizers in manual optimization."""
    torch.manual_seed(3)

    def configure(task: Task) -> Any:
        first, second = task.net[0], task.net[2]  # type: ignore[index]
        return [
            torch.optim.SGD(first.parameters(), lr=0.2),
            torch.optim.Adam(second.parameters(), lr=0.02),
        ]

    def loss_fn(module: Any, batch: Any) -> Any:
        return module.loss(batch)

    monitor = CurvatureMonitor(every_n_steps=1, loss_fn=loss_fn)
    return recorded(TwoByHand(mlp(), configure), monitor, loader(48), max_epochs=1)


def by_hand_heard() -> Record:
    """The same with the loss that `manual_backward` got, and one optimizer."""
    torch.manual_seed(4)
    monitor = CurvatureMonitor(every_n_steps=2)

    class OneByHand(TwoByHand):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    return recorded(OneByHand(mlp(), sgd(0.2)), monitor, loader(48), max_epochs=1)


def accumulated() -> Record:
    """Two batches a step, of five in an epoch; a probe of the current batch."""
    torch.manual_seed(5)
    monitor = CurvatureMonitor(every_n_steps=1, probe="current")
    task = Task(mlp(), sgd(0.3, momentum=0.9, nesterov=True))
    return recorded(task, monitor, loader(30), max_epochs=2, accumulate_grad_batches=2)


def evaluated() -> Record:
    """The same, in eval mode on a probe of two batches."""
    torch.manual_seed(5)
    monitor = CurvatureMonitor(every_n_steps=1, mode="eval", probe_batches=2)
    task = Task(noisy_mlp(), sgd(0.3))
    return recorded(task, monitor, loader(30), max_epochs=3, accumulate_grad_batches=2)


def everything() -> Record:
    """All measures there are."""
    torch.manual_seed(6)
    monitor = CurvatureMonitor.preset("everything", every_n_steps=3)
    return recorded(Task(mlp(), sgd(0.3, momentum=0.5)), monitor, loader(48), max_epochs=1)


def chunked() -> Record:
    """Batches in parts of two examples."""
    torch.manual_seed(7)
    measures = ["sharpness", "step_geometry", "gauss_newton", "gradient_stats"]
    monitor = CurvatureMonitor(measures, every_n_steps=2, chunk_size=2, probe_batches=2)
    return recorded(Task(mlp(), sgd(0.3)), monitor, loader(24, batch_size=4), max_epochs=1)


def by_differences() -> Record:
    """Hessian-vector products by differences of gradients, which are clipped by value."""
    torch.manual_seed(8)
    measures = ["sharpness", "step_geometry", "top_eigenvalues"]
    monitor = CurvatureMonitor(measures, every_n_steps=2, hvp="difference")
    options: dict[str, Any] = {"gradient_clip_val": 0.2, "gradient_clip_algorithm": "value"}
    return recorded(Task(mlp(), sgd(0.3)), monitor, loader(36), max_epochs=1, **options)


def resumed() -> Record:
    """Six steps, a checkpoint, and six more of another Trainer."""
    torch.manual_seed(9)
    data = loader(72)

    def monitor() -> CurvatureMonitor:
        measures = ["sharpness", StepGeometry(compare=["adam"]), "gradient_noise", "layer_signal"]
        return CurvatureMonitor(measures, every_n_steps=2, alerts="research")

    def task() -> Task:
        return Task(noisy_mlp(), sgd(0.5, momentum=0.9))

    with tempfile.TemporaryDirectory() as folder:
        first = trainer(monitor(), max_steps=6)
        first.fit(task(), data)
        first.save_checkpoint(f"{folder}/six.ckpt")
        return recorded(task(), monitor(), data, max_steps=12, ckpt=f"{folder}/six.ckpt")


def doubtful() -> Record:
    """A loss that is another one when it is computed again, and a tolerance that cannot be met."""
    torch.manual_seed(11)

    class Other(Task):
        def loss(self, batch: Any) -> torch.Tensor:
            training = isinstance(self.net[0].weight, nn.Parameter)  # type: ignore[index]
            return super().loss(batch) * (1.0 if training else 1.3)

    measures = ["sharpness", "step_geometry", TopEigenvalues(k=3, rtol=1e-12)]
    monitor = CurvatureMonitor(measures, every_n_steps=1)
    return recorded(Other(mlp(), sgd(0.3)), monitor, loader(24), max_epochs=1)


def ranks(folder: Path) -> None:
    """Run in a fresh process, which is forked into two: each writes its record."""
    torch.set_num_threads(1)
    torch.manual_seed(10)
    monitor = CurvatureMonitor(every_n_steps=1, alerts="research")
    task = _Ranked(noisy_mlp(), sgd(0.5, momentum=0.9))
    task.folder, task.monitor = folder, monitor
    trainer(monitor, max_steps=8, devices=_RANKS, strategy="ddp_fork").fit(task, loader(96))


class _Ranked(Task):
    folder: Path
    monitor: CurvatureMonitor

    def on_train_end(self) -> None:
        """Write what this process read."""
        record = Record()
        record.add_run(self.monitor.history, self.monitor.advice(), self)
        (self.folder / f"{self.global_rank}.json").write_text(json.dumps(vars(record)))


def processes() -> Record:
    """DDP of two processes; values of both."""
    whole = Record()
    with tempfile.TemporaryDirectory() as folder:
        # threads that autograd may have started here would not survive a fork
        command = [sys.executable, "-m", "benchmarks.golden", "ranks", folder]
        environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        environment.pop("MASTER_PORT", None)  # Lightning looks for a free one
        done = subprocess.run(
            command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=_LIMIT
        )
        if done.returncode:
            raise RuntimeError(f"the run of two processes failed:\n{done.stderr}")
        for rank in range(_RANKS):
            found = json.loads((Path(folder) / f"{rank}.json").read_text())
            for kind, cells in found.items():
                for name, at, content in cells:
                    getattr(whole, kind).append((f"rank {rank} {name}", at, content))
    return whole
