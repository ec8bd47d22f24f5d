"""Run by test_processes.py: loops on two processes, what each of them saw is saved for the test.

python -m tests.training.loop.two_processes DIRECTORY
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.fabric import Fabric
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from curvwatch import Sharpness, StepGeometry, Watch
from tests.support.modules import batches, mlp, sgd
from tests.training.loop.loops import loop, loss_fn, normalised

STEPS = 6
MEASURES = [Sharpness(), StepGeometry(compare=["momentum", "clipped_adam"])]
# global, for what hangs on a module is put back after a reading
FORWARDS: list[None] = []


def doubled() -> nn.Module:
    """Deterministic and in float64, so that its mean over processes is that of the joined batch."""
    return mlp().double()


def share_of(rank: int, dtype: torch.dtype) -> list[Any]:
    """The batches of this process."""
    every = [(x.to(dtype), y) for x, y in batches(8 * STEPS)]
    return every[rank::2]


def train(
    rank: int, model: nn.Module, optimizer: Any, net: nn.Module, to: Path, *, watched: bool
) -> None:
    data = share_of(rank, next(net.parameters()).dtype)
    torch.manual_seed(rank)  # dropout differs
    told: list[str] = []
    warnings.showwarning = lambda message, *_: told.append(str(message))
    warnings.simplefilter("always")
    rows = Rows()
    FORWARDS.clear()
    for ddp in (m for m in model.modules() if isinstance(m, DistributedDataParallel)):
        ddp.register_forward_pre_hook(lambda *_: FORWARDS.append(None))
    watch = None
    if watched:
        watch = Watch(model, optimizer, loss_fn, MEASURES, every_n_steps=2, logger=rows)
    loop(model, optimizer, data=data, watch=watch)
    seen = {
        "weights": {
            name: t.full_tensor() if isinstance(t, DTensor) else t
            for name, t in net.state_dict().items()
        },
        "history": watch and watch.history.to_dict(),
        "notes": watch and [n.text for n in watch.history.notes],
        "logged": rows.steps,
        "forwards of DDP": len(FORWARDS),
        "told": told,
    }
    torch.save(seen, to / f"{rank}.pt")


class Rows:
    """The steps that are logged on this process."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.steps.append(step)


def plain(rank: int, to: Path, make: Callable[[], nn.Module], watched: bool) -> None:
    dist.init_process_group("gloo", init_method=f"file://{to}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    net = make()
    ddp = DistributedDataParallel(net)
    train(rank, ddp, sgd(net.parameters()), net, to, watched=watched)
    dist.destroy_process_group()


def sharded(rank: int, to: Path, watched: bool) -> None:
    dist.init_process_group("gloo", init_method=f"file://{to}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    net = mlp()
    fully_shard(net[0])
    fully_shard(net)
    train(rank, net, sgd(net.parameters()), net, to, watched=watched)
    dist.destroy_process_group()


def with_fabric(fabric: Fabric, to: Path) -> None:
    torch.manual_seed(0)
    net = normalised()
    model, optimizer = fabric.setup(net, sgd(net.parameters()))
    train(fabric.global_rank, model, optimizer, net, to, watched=True)


def main(directory: Path) -> None:
    torch.set_num_threads(1)
    for name, make, watched in (
        ("joined", doubled, True),
        ("plain", normalised, False),
        ("watched", normalised, True),
    ):
        (directory / name).mkdir()
        mp.start_processes(plain, (directory / name, make, watched), nprocs=2, start_method="fork")
    for name, watched in (("sharded plain", False), ("sharded", True)):
        (directory / name).mkdir()
        mp.start_processes(sharded, (directory / name, watched), nprocs=2, start_method="fork")
    (directory / "fabric").mkdir()
    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp_fork")
    fabric.launch(with_fabric, directory / "fabric")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
