"""Golden runs of a plain loop, and of the landscape after training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from benchmarks.golden.nets import examples, heard, loader, mlp, noisy_mlp
from benchmarks.golden.values import Record
from curvwatch import Compared, Rule, StepGeometry, Watch
from curvwatch.landscape import (
    align,
    eigenvectors,
    interpolate,
    path,
    plane,
    slice_1d,
    slice_2d,
    surface_of,
    trajectory,
)

Batch = tuple[Tensor, Tensor]
Made = Callable[[Any], Optimizer]


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of noisy inputs: the noise is drawn before the model is called."""
    x, y = batch
    return F.cross_entropy(model(x + 0.1 * torch.randn_like(x)), y)


def plain_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy."""
    x, y = batch
    return F.cross_entropy(model(x), y)


def watched() -> Record:
    """Adam, two batches a step by `Watch.loss`, clipped after backward; other optimizers compared."""
    torch.manual_seed(20)
    net = noisy_mlp()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    compare = ["sgd", "momentum", "normalized_sgd", "sign", "lion", "clipped_sgd", "clipped_adam"]
    mine = Compared("mine", lambda params: torch.optim.RMSprop(params), clip=0.2)
    rules = [Rule("mine", "step/relative_loss_change", above=-0.1, cooldown=2)]
    batches = list(loader(144))
    record, returned = Record(), []
    with heard() as texts:
        measures = ["sharpness", StepGeometry(compare=[*compare, mine]), "gradient_stats"]
        with Watch(net, optimizer, loss_fn, measures, every_n_steps=1, rules=rules) as watch:
            for pair in zip(batches[::2], batches[1::2], strict=True):
                for batch in pair:
                    (watch.loss(batch) / 2).backward()
                nn.utils.clip_grad_norm_(net.parameters(), 0.5)
                optimizer.step()
                optimizer.zero_grad()
                returned.append(watch.step())
    record.add_run(watch.history, watch.advice(), net, texts)
    record.add("names that step() returned", [sorted(values) for values in returned])
    return record


def settled() -> Record:
    """Full-batch gradient descent until there is advice."""
    torch.manual_seed(21)
    net = mlp()
    record = Record()
    _train(record, net, torch.optim.SGD(net.parameters(), lr=1.5), [examples(32)] * 80)
    return record


def saved() -> Record:
    """A loop whose watch and optimizer go on from the state of others."""
    torch.manual_seed(22)
    record, batches = Record(), list(loader(72))
    net = noisy_mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9)
    state = _train(record, net, optimizer, batches[:6])
    _train(record, net, optimizer, batches[6:], state=state)
    return record


_OPTIMIZERS: dict[str, Made] = {
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "damped": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.3),
    "maximize": lambda p: torch.optim.SGD(p, lr=0.01, maximize=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "nadamw": lambda p: torch.optim.NAdam(p, lr=0.01, weight_decay=0.1, decoupled_weight_decay=True),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "centered": lambda p: torch.optim.RMSprop(p, lr=0.01, centered=True, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05, lr_decay=0.1),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.05),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.05),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
}


def optimizers() -> Record:
    """Four steps of each of torch's optimizers: their laws of stability, and refusals."""
    whole = Record()
    for name, make in _OPTIMIZERS.items():
        torch.manual_seed(23)
        record, net = Record(), mlp()
        _train(record, net, make(net.parameters()), list(loader(24)))
        for kind in ("values", "words"):
            cells = getattr(record, kind)
            getattr(whole, kind).extend(cell._replace(name=f"{name} {cell.name}") for cell in cells)
    return whole


def _train(
    record: Record,
    net: nn.Module,
    optimizer: Optimizer,
    batches: Sequence[Any],
    *,
    state: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Record a loop over `batches`; returns the state of its watch."""
    with heard() as texts, Watch(net, optimizer, plain_loss, every_n_steps=1) as watch:
        if state is not None:
            watch.load_state_dict(state)
        for batch in batches:
            plain_loss(net, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            watch.step(batch)
        left = watch.state_dict()
    record.add_run(watch.history, watch.advice(), net, texts)
    return left


def landscape() -> Record:
    """Slices, planes, paths, interpolation and alignment of two small trained networks."""
    record, data = Record(), loader(24)
    snapshots = list(_snapshots(30))
    a, b = snapshots[-1], list(_snapshots(31))[-1]
    net = mlp()
    net.load_state_dict(a)
    on: dict[str, Any] = {"batches": data, "loss_fn": plain_loss}
    surface = surface_of(net, **on)
    quiet: dict[str, Any] = {"progress": False}
    with heard() as texts:
        for kind in ("random", "hessian", "gradient"):
            record.add(f"slice_1d {kind}", slice_1d(net, kind, points=7, **on, **quiet))
            record.add(f"slice_2d {kind}", slice_2d(surface, kind, points=5, **quiet))
        record.add("slice_1d layer", slice_1d(surface, points=5, normalize="layer", seed=1, **quiet))
        record.add("eigenvectors", eigenvectors(surface, 2))
        record.add("plane", plane(surface, [snapshots[0], a, b], points=5, **quiet))
        record.add("trajectory", trajectory(surface, snapshots, points=5, **quiet))
        aligned = align(net, a, b)
        record.add("align", aligned)
        record.add("align.distance", [aligned.distance_before, aligned.distance, aligned.moved])
        for name, end in (("as it is", b), ("aligned", aligned)):
            line = interpolate(surface, a, end, snapshots=snapshots, points=9, **quiet)
            record.add(f"interpolate {name}", line)
            record.add(f"interpolate {name}.bump", line.bump)
            record.add(f"path line {name}", path(surface, a, end, points=9, refine=4, **quiet))
        few: dict[str, Any] = {"points": 7, "refine": 4, "steps": 5, **quiet}
        for kind, options in (
            ("bezier", {}),
            ("chain", {"bends": 2, "optimizer": "sgd", "batches_per_step": 2}),
            ("band", {"pivots": 3, "inserts": 1}),
        ):
            found = path(surface, a, b, kind=kind, **few, **options)
            record.add(f"path {kind}", found)
            record.add(f"path {kind}.barrier", [found.barrier, found.barrier_t])
    record.add("warnings", texts)
    return record


def _snapshots(seed: int) -> Iterator[dict[str, Tensor]]:
    """Of a short training, every two steps."""
    torch.manual_seed(seed)
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    for _ in range(4):
        for batch in loader(24):
            plain_loss(net, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
        yield {name: t.clone() for name, t in net.state_dict().items()}
