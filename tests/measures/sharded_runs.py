"""Run by test_sharded.py: measures in loops on two processes, weights sharded or replicated.

python -m tests.measures.sharded_runs DIRECTORY SHARDED... -- REPLICATED...
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from curvwatch import Watch
from curvwatch.measures import MEASURES, Measure
from curvwatch.objective.processes import local

FEATURES, CLASSES = 6, 3
STEPS, ROWS = 2, 8
# what is compared closely is solved closely, and products by differences cost time
OPTIONS: dict[str, dict[str, Any]] = {
    "layer_curvature": {"density_steps": 2, "rtol": 1e-3},
    "gradient_subspace": {"k": 2, "rtol": 1e-5},
    "spectral_density": {"probes": 4, "steps": 4, "leading": 8, "rtol": 1e-3},
    "stationary_point": {"rtol": 1e-4},
    "top_eigenvalues": {"k": 2, "rtol": 1e-4},
    "epsilon_sharpness": {"steps": 3},
    "critical_sharpness": {"tolerance": 0.01},
    "layer_signal": {"probes": 8},
    # without targets that are drawn
    "fisher": {"kind": "type1", "probes": 2},
    "gauss_newton": {"probes": 2},
    # the other kind needs all batches on one process, and says so
    "batch_sharpness": {"interaction": False},
}


def made(name: str) -> Measure:
    return MEASURES[name](**OPTIONS.get(name, {}))


def net() -> nn.Sequential:
    torch.manual_seed(3)
    # 7 and 3 rows do not divide by two: shards are uneven
    return nn.Sequential(nn.Linear(FEATURES, 7), nn.ReLU(), nn.Linear(7, CLASSES)).double()


def loss_fn(model: nn.Module, batch: Any) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def half(rank: int) -> slice:
    return slice(rank * ROWS // 2, (rank + 1) * ROWS // 2)


def run(
    name: str | None, model: nn.Module, *, part: slice, probe: Sequence[slice] = ()
) -> dict[str, Any]:
    """Two steps, both read by the measure `name`, on the rows `part` of each batch.

    The landscape is read on those rows of the first batch, or on the batches `probe` of rows of it.
    """
    told: list[str] = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(ROWS * STEPS, FEATURES, generator=torch.Generator().manual_seed(7)).double()
    y = x[:, :CLASSES].argmax(dim=1)
    on: Any = [(x[:ROWS][p], y[:ROWS][p]) for p in probe] or "first"
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: told.append(str(message))
        watch = None
        if name is not None:
            watch = Watch(model, optimizer, loss_fn, [made(name)], every_n_steps=1, probe=on)
        for rows in torch.arange(ROWS * STEPS).split(ROWS):
            batch = x[rows[part]], y[rows[part]]
            loss_fn(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            if watch is not None:
                watch.step(batch)
        if watch is not None:
            watch.close()
    return {
        "weights": [local(p.detach()).clone() for p in model.parameters()],
        "history": watch and watch.history.to_dict(),
        "notes": watch and [note.text for note in watch.history.notes],
        "told": told,
    }


def on_two(rank: int, to: Path, sharded: Sequence[str], replicated: Sequence[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{to}/store", rank=rank, world_size=2)
    seen: dict[str, Any] = {"sharded": {}, "replicated": {}}
    for name in (None, *sharded):
        model = net()
        for layer in (model[0], model[2], model):
            fully_shard(layer)
        seen["sharded"][name or "plain"] = run(name, model, part=half(rank))
    for name in replicated:
        ddp = DistributedDataParallel(net())
        seen["replicated"][name] = run(name, ddp, part=half(rank), probe=[half(rank)])
    torch.save(seen, to / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    directory, *names = sys.argv[1:]
    between = names.index("--")
    arguments = (Path(directory), names[:between], names[between + 1 :])
    mp.start_processes(on_two, arguments, nprocs=2, start_method="fork")
