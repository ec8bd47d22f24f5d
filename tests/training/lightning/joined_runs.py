"""Run by test_joined.py on each of two processes: what a process saw is saved for the test.

RANK is set by the test: python -m tests.training.lightning.joined_runs DIRECTORY [SHARDED]
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard

from curvwatch import CurvatureMonitor, Sharpness, StepGeometry
from curvwatch.objective.processes import local
from tests.support.modules import CLASSES, FEATURES, Classifier, examples, fit

STEPS, ROWS = 4, 8
# a solve this accurate leaves nothing but the joining to compare
SHARP = [Sharpness(rtol=1e-7), StepGeometry()]
TOLD: list[str] = []


class Joined:
    """Batches of ROWS examples, of which each of two processes has its half."""

    def __init__(
        self,
        *,
        spoil: int | None = None,
        dtype: torch.dtype = torch.float32,
        wrapped: Callable[[Any], Any] = tuple,
    ) -> None:
        self.spoil = spoil
        self.dtype = dtype
        self.wrapped = wrapped

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[Any]:
        x, y = (t.clone() for t in examples(ROWS * STEPS).tensors)
        x = x.to(self.dtype)
        if self.spoil is not None:
            x[ROWS * self.spoil] = torch.inf  # of rank 0 alone
        for part in torch.arange(ROWS * STEPS).split(ROWS):
            rows = part
            if torch.distributed.is_initialized():
                rows = part[torch.distributed.get_rank() * ROWS // 2 :][: ROWS // 2]
            yield self.wrapped((x[rows], y[rows]))


def net() -> nn.Sequential:
    torch.manual_seed(3)
    # 7 and 5 rows do not divide by two: shards are uneven
    return nn.Sequential(
        nn.Linear(FEATURES, 7), nn.Tanh(), nn.Linear(7, 5), nn.GELU(), nn.Linear(5, CLASSES)
    )


def momentum(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.1, momentum=0.9)


def adam(params: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr=1e-2)


class Sharded(Classifier):
    """FSDP2, layer by layer."""

    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                fully_shard(layer, mesh=mesh)
        fully_shard(self.net, mesh=mesh)


class Unclonable:
    """A batch that one process cannot copy."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def clone(self) -> Unclonable:
        if torch.distributed.get_rank() == 1:
            raise OSError("cannot be copied")
        return Unclonable(self.batch)


class OfUnclonable(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch.batch)


class Saves(pl.Callback):
    """Keeps what this process saw."""

    def __init__(self, monitor: CurvatureMonitor | None) -> None:
        self.monitor = monitor
        self.seen: dict[str, Any] = {}

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        monitor = self.monitor
        self.seen = {
            "steps": trainer.global_step,
            "weights": [local(p.detach()).clone() for p in module.parameters()],
            "gradients": [p.grad is not None for p in module.parameters()],
            "state": [
                [local(v).clone() for v in s.values()] for s in trainer.optimizers[0].state.values()
            ],
            "history": monitor and monitor.history.to_dict(),
            "alerts": monitor and [vars(a) for a in monitor.alerts],
        }


def run(
    make: Callable[[], Classifier], *, watched: bool = True, data: Any = None, **options: Any
) -> dict[str, Any]:
    """One run, here or on two processes; what this process saw."""
    TOLD.clear()
    monitor = CurvatureMonitor(SHARP, every_n_steps=1) if watched else None
    saves = Saves(monitor)
    callbacks = [saves] if monitor is None else [monitor, saves]
    torch.manual_seed(0)
    data = Joined() if data is None else data
    fit(make(), *callbacks, data=data, use_distributed_sampler=False, **options)
    return {**saves.seen, "told": list(TOLD)}


def replicated() -> dict[str, Any]:
    return {"devices": 2, "strategy": "ddp"}


def sharded() -> dict[str, Any]:
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    return {"devices": 2, "strategy": strategy}


OPTIMIZERS = {"momentum": momentum, "adam": adam}
# of runs with sharded weights: the optimizer, and the Trainer's options
SHARDED: dict[str, tuple[str, dict[str, Any]]] = {
    "momentum": ("momentum", {}),
    "momentum, clipped": ("momentum", {"gradient_clip_val": 0.5}),
    "adam, accumulated": ("adam", {"accumulate_grad_batches": 2}),
}
# which has nothing that another one has not
PLAIN = "momentum"


def of_sharded(name: str) -> dict[str, Any]:
    """The runs of SHARDED[name], with the monitor and without."""
    optimizer, options = SHARDED[name]
    return {
        f"fsdp {name}" + " watched" * watched: run(
            lambda: Sharded(net(), OPTIMIZERS[optimizer]), watched=watched, **options, **sharded()
        )
        for watched in (True, False)
    }


def of_all_but_plain() -> dict[str, Any]:
    """All runs but those of SHARDED[PLAIN]."""
    seen: dict[str, Any] = {}
    for name, optimizer in OPTIMIZERS.items():
        seen[f"ddp {name}"] = run(
            lambda o=optimizer: Classifier(net(), o),
            data=Joined(dtype=torch.float64),
            precision="64-true",
            **replicated(),
        )
    for name in SHARDED:
        if name != PLAIN:
            seen |= of_sharded(name)
    for watched in (True, False):
        seen["not finite" + " watched" * watched] = run(
            lambda: Classifier(net(), momentum), watched=watched, data=Joined(spoil=3), **replicated()
        )
    seen["not ready"] = run(
        lambda: OfUnclonable(net()), data=Joined(wrapped=Unclonable), **replicated()
    )
    return seen


def main(directory: Path, name: str | None = None) -> None:
    seen = of_all_but_plain() if name is None else of_sharded(name)
    torch.save(seen, directory / f"{os.environ['LOCAL_RANK']}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.showwarning = lambda message, *_: TOLD.append(str(message))
    warnings.simplefilter("always")
    main(Path(sys.argv[1]), *sys.argv[2:])
