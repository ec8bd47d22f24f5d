"""Rows: compiled parts, and hooks of other people."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest.mock import MagicMock

import lightning.pytorch as pl
import pytest
import torch
import torch._inductor.config
from torch import Tensor, nn
from torch._dynamo.utils import counters

from tests.compat.layers import Between
from tests.compat.rows import Row, of_net
from tests.support.modules import Classifier, fit, mlp


def compiled(backend: str, dropout: float = 0.2) -> Any:
    return of_net(lambda: torch.compile(mlp(dropout), backend=backend))


class CompilesItsStep(Classifier):
    """The loss as a compiled function."""

    def __init__(self) -> None:
        super().__init__(mlp(dropout=0.2))
        self.compiled_loss = torch.compile(super().loss, backend="aot_eager")

    def loss(self, batch: Any) -> Tensor:
        return self.compiled_loss(batch)


def in_place() -> Classifier:
    module = Classifier(Between(nn.Dropout(0.2), flat=True))
    module.net.compile(backend="aot_eager")
    return module


class Quiet(Classifier):
    """Logs nothing: torch cannot trace `self.log`."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)


def counted(module: Any, *callbacks: Any, **options: Any) -> pl.Trainer:
    """`fit`; the module then tells how often something was compiled."""
    torch._dynamo.reset()
    counters.clear()
    trainer = fit(module, *callbacks, **options)
    assert counters["stats"]["unique_graphs"] > 0
    trainer.lightning_module.compilations = [dict(counters[name]) for name in ("stats", "recompiles")]
    return trainer


def with_torchs_random_numbers(module: Any, *callbacks: Any, **options: Any) -> pl.Trainer:
    with torch._inductor.config.patch(fallback_random=True):
        return counted(module, *callbacks, **options)


def watched(module: Any, *callbacks: Any, **options: Any) -> pl.Trainer:
    """`fit` under `run.watch(module, log="all")` of W&B; the module then tells what was logged."""
    pytest.importorskip("wandb")
    import wandb
    from wandb.integration.torch.wandb_torch import TorchHistory
    from wandb.sdk.wandb_watch import _unwatch, _watch

    logged: list[Any] = []
    run = MagicMock(_torch=TorchHistory(), _log=lambda row, commit: logged.append(row))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wandb, "run", run)
        _watch(run, module.net, log="all", log_freq=1, idx=0)
        trainer = fit(module, *callbacks, **options)
        _unwatch(run, module.net)
    module.logged = [(name, h.histogram, h.bins) for row in logged for name, h in row.items()]
    # weights in each forward pass, gradients in each backward pass
    assert len(module.logged) == 2 * len(list(module.parameters())) * trainer.global_step
    return trainer


class Hooked(Classifier):
    """Hooks of every kind on layers, that count in lists of the module's and of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        calls, first, last = self.calls, self.net[0], self.net[3]
        first.register_forward_pre_hook(lambda *_: calls.append("forward pre"))
        first.register_forward_hook(lambda *_: calls.append("forward"))
        last.register_full_backward_pre_hook(lambda *_: calls.append("backward pre"))
        last.register_full_backward_hook(lambda *_: calls.append("backward"))
        first.weight.register_hook(lambda g: calls.append("gradient"))
        last.bias.register_post_accumulate_grad_hook(lambda p: calls.append("accumulated"))
        self.count = counter()
        first.register_forward_hook(lambda *_: self.count())
        self.most = Most()
        first.register_forward_hook(self.most)


def counter() -> Any:
    """Counts its calls in a variable of its own."""
    n = 0

    def count() -> None:
        nonlocal n
        n += 1

    return count


class Most:
    """The largest activation so far, in a hook that is an object."""

    def __init__(self) -> None:
        self.value = torch.zeros(())

    def __call__(self, layer: nn.Module, args: Any, output: Tensor) -> None:
        self.value = torch.maximum(self.value, output.detach().max())


class Features(Classifier):
    """The loss takes what hooks keep by a closure, a default argument, a bound one."""

    def __init__(self) -> None:
        super().__init__(mlp(dropout=0.2))
        self.first: dict[str, Tensor] = {}
        self.all: list[Tensor] = []
        self.last: list[Tensor] = []
        self.net[0].register_forward_hook(by_closure(self.first))
        self.net[1].register_forward_hook(by_default(self.all))
        self.net[2].register_forward_hook(partial(by_argument, self.last))

    def loss(self, batch: Any) -> Tensor:
        loss = super().loss(batch)
        return loss + sum(t.square().mean() for t in (self.first["output"], self.all[-1], *self.last))


def by_closure(kept: dict[str, Tensor]) -> Any:
    def keep(layer: Any, args: Any, output: Tensor) -> None:
        kept["output"] = output

    return keep


def by_default(outputs: list[Tensor]) -> Any:
    def keep(layer: Any, args: Any, output: Tensor, *, kept: list[Tensor] = outputs) -> None:
        kept.append(output)

    return keep


def by_argument(kept: list[Tensor], layer: Any, args: Any, output: Tensor) -> None:
    kept[:] = [output]


class OfItsClass(Classifier):
    """Keeps what it saw in a list of its class."""

    seen: list[Tensor]  # set by each run anew

    def __init__(self) -> None:
        super().__init__()
        type(self).seen = []

    def loss(self, batch: Any) -> Tensor:
        self.seen.append(batch[1].sum())
        return super().loss(batch)

    def on_train_batch_end(self, *_: Any) -> None:
        self.log("seen", float(len(self.seen)))


COMPILED = {
    "torch.compile of a submodule: eager": compiled("eager"),
    "torch.compile of a submodule: aot_eager": compiled("aot_eager"),
    "module.compile()": in_place,
    "torch.compile of the loss": CompilesItsStep,
    "trainer.fit(torch.compile(module))": lambda: torch.compile(
        Quiet(mlp(dropout=0.2)), backend="aot_eager"
    ),
}

NAME = "torch.compile of a submodule: inductor"
# these take a C++ compiler, and its time
INDUCTOR = [
    Row(NAME, compiled("inductor", dropout=0.0), scenario=counted),
    Row(
        f"{NAME}, dropout",
        compiled("inductor"),
        scenario=counted,
        values="finite",
        says=("training_step is not repeatable",),
    ),
    Row(f"{NAME}, dropout, fallback_random", compiled("inductor"), scenario=with_torchs_random_numbers),
]

HOOKS = [
    *(Row(name, module, scenario=counted) for name, module in COMPILED.items()),
    Row("hooks on layers and weights", Hooked),
    Row("forward hooks that the loss depends on", Features),
    Row("a list of the module's class", OfItsClass),
    Row("watch of W&B", Classifier, scenario=watched),
]
