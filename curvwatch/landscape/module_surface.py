"""The surface of a module's loss on fixed batches."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn

from curvwatch.checks import Mode, check_choice
from curvwatch.errors import CurvwatchError
from curvwatch.landscape.batch_norm import Recalibrated, normalisations
from curvwatch.landscape.checkpoints import check_has_values
from curvwatch.landscape.module_loss import ModuleLoss, is_lightning, mute_module
from curvwatch.landscape.surface import Group, Surface, checked, groups_of
from curvwatch.objective import Counts, Objective, OpenObjective
from curvwatch.objective.flat_layout import Layout
from curvwatch.objective.isolation.containers import batch_size
from curvwatch.objective.isolation.isolate import ModuleState, isolated
from curvwatch.objective.isolation.random_state import RandomState
from curvwatch.objective.samples import RecordedBatch
from curvwatch.operators import hessian
from curvwatch.operators.base import SymmetricOperator
from curvwatch.training.lightning.training_step import batch_transfer_of
from curvwatch.training.probe import generators_of, move_batch
from curvwatch.training.run import StepInput

# what a surface is made from; one itself stays as it is
Subject: TypeAlias = Surface | Objective | nn.Module


class ModuleSurface:
    """The loss of an objective as a function of its flat weights; `surface_of` makes it.

    Args:
        objective: of which a copy is kept, with counts of its own and fixed random numbers.
        recalibrate: whether batch norms in eval mode get the statistics of the weights at each point.
        seed: of the random numbers of batches that have none of their own.

    Attributes:
        objective: the copy.
        start: the weights now, shape (size,).
        groups: which parameter lies where.
        recalibrates: whether statistics of batch norms are estimated at each point.

    Raises:
        CurvwatchError: its weights are spread over processes.
    """

    def __init__(self, objective: Objective, *, recalibrate: bool = True, seed: int = 0) -> None:
        if objective.layout.sharded:
            raise CurvwatchError(
                "the weights are spread over processes; a landscape needs them whole, on one process"
            )
        self.objective = copy.copy(objective)
        self.objective.counts = Counts()
        self.objective.samples = _with_random_numbers(objective, seed)
        self._recalibrated: Recalibrated | None = None
        module, train = objective.module, objective.train
        evaluates = not module.training if train is None else not train
        if recalibrate and evaluates and normalisations(module):
            self._recalibrated = Recalibrated(module, objective.loss_fn)
            self.objective.loss_fn = self._recalibrated
        self.recalibrates = self._recalibrated is not None
        layout = objective.layout
        self.start = layout.flatten(objective.params)
        self.groups: tuple[Group, ...] = groups_of(
            [(name, tuple(shape)) for name, shape in zip(objective.names, layout.shapes, strict=True)]
        )
        self._opened: OpenObjective | None = None

    @property
    def module(self) -> nn.Module:
        """Whose weights they are."""
        return self.objective.module

    @property
    def counts(self) -> Counts:
        """What was spent so far, in passes over all batches."""
        return self.objective.counts

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.objective.layout.size

    @property
    def dtype(self) -> torch.dtype:
        """Of flat vectors."""
        return self.objective.layout.dtype

    @property
    def device(self) -> torch.device:
        """Of flat vectors."""
        return self.objective.layout.device

    @contextmanager
    def open(self) -> Iterator[ModuleSurface]:
        """Borrow the module until the end of the block; it comes back bit for bit."""
        if self._opened is not None:
            yield self
            return
        # displacements from zero are weights themselves, without rounding
        zeros = {id(p): torch.zeros_like(p) for p in self.objective.params}
        with self.objective.open(zeros) as self._opened:
            try:
                yield self
            finally:
                self._opened = None

    def loss(self, w: Tensor) -> float:
        """f(w)."""
        w = checked(self, w)
        with self.open():
            assert self._opened is not None
            self._calibrate(partial(self._opened.loss, w))
            return self._opened.loss(w)

    def gradient(self, w: Tensor) -> tuple[float, Tensor]:
        """f(w) and its gradient, shape (size,), with re-estimated statistics held fixed."""
        w = checked(self, w)
        with self.open():
            assert self._opened is not None
            self._calibrate(partial(self._opened.loss, w))
            return self._opened.gradient(w)

    @contextmanager
    def hessian(self, w: Tensor | None = None) -> Iterator[SymmetricOperator]:
        """The Hessian at `w` (default: the start), with re-estimated statistics held fixed.

        Raises:
            CurvwatchError: the surface is open.
        """
        if self._opened is not None:
            raise CurvwatchError("the surface is open: take the Hessian before, or after")
        params = self.objective.params
        parts = self.objective.layout.split(self.start if w is None else checked(self, w))
        with self.objective.open(dict(zip(map(id, params), parts, strict=True))) as opened:
            self._calibrate(opened.loss)
            yield hessian(opened.linearize())

    def _calibrate(self, evaluate: Callable[[], Any]) -> None:
        if self._recalibrated is not None:
            self._recalibrated.estimate(evaluate)


def surface_of(
    subject: Subject,
    batches: Iterable[Any] | None = None,
    *,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    mode: Mode | None = None,
    recalibrate: bool = True,
    max_batches: int | None = None,
    seed: int = 0,
) -> Surface:
    """The loss as a function of all weights that require a gradient.

    Nothing is left behind on the module: weights, gradients, buffers, flags, random states are what
    they were, also after an exception or Ctrl-C.

    Args:
        subject: a LightningModule, another module with `loss_fn`, or an `Objective`. A surface is
            returned as it is.
        batches: a list of batches or a DataLoader, for a module; all of them are held in memory, each
            counts by its number of examples. They pass the module's batch-transfer hooks.
        loss_fn: `loss_fn(module, batch)` -> loss, where it is not that of `training_step(batch)`.
        mode: "eval" (default for a module) or "train"; None leaves an objective its own. Random
            numbers of train mode are the same ones at every point.
        recalibrate: in eval mode, estimate the running statistics of batch norms anew at each point,
            for those of the module belong to other weights (Izmailov et al. 2018); one
            more forward pass a point.
        max_batches: use the first so many.
        seed: of the random numbers of the loss, and of a DataLoader's order.

    Raises:
        ValueError: the arguments do not fit together.
        CurvwatchError: there is no batch, or the loss cannot be computed.

    Example:
        >>> net = nn.Linear(1, 1, bias=False).double()
        >>> x = torch.tensor([[2.0]], dtype=torch.float64)
        >>> surface = surface_of(net, [x], loss_fn=lambda net, x: net(x).square().mean())
        >>> surface.loss(torch.tensor([3.0]))
        36.0
    """
    if mode is not None:
        check_choice("mode", mode, ("eval", "train"))
    if not isinstance(subject, (nn.Module, Objective)):
        _check_surface(subject)
        if batches is not None or loss_fn is not None:
            raise ValueError("a surface has its loss already: batches and loss_fn belong to a module")
        return subject
    if isinstance(subject, Objective):
        if batches is not None or loss_fn is not None:
            raise ValueError("an Objective has batches and a loss: give the module, or leave them out")
        objective = copy.copy(subject)
        if mode is not None:
            objective.train = mode == "train"
        return ModuleSurface(objective, recalibrate=recalibrate, seed=seed)
    check_has_values(subject)
    loss = _loss_of(subject, loss_fn)
    samples = _samples(subject, batches, max_batches, seed)
    objective = Objective(subject, loss, samples, train=mode == "train")
    return ModuleSurface(objective, recalibrate=recalibrate, seed=seed)


def _check_surface(subject: Any) -> None:
    if not all(hasattr(subject, name) for name in ("loss", "start", "groups", "open")):
        raise ValueError(
            f"{type(subject).__name__}: a LightningModule, another nn.Module with loss_fn, an "
            "Objective, or a surface is needed"
        )


class _LossOf:
    """The user's function of module and batch, as one of a `StepInput`."""

    def __init__(self, module: nn.Module, loss_fn: Callable[[Any, Any], Any]) -> None:
        self._module = module
        self._loss_fn = loss_fn

    def __call__(self, item: StepInput) -> Any:
        with mute_module(self._module):
            return self._loss_fn(self._module, item.data)


def _loss_of(
    module: nn.Module, loss_fn: Callable[[Any, Any], Any] | None
) -> Callable[[StepInput], Any]:
    if loss_fn is not None:
        if not callable(loss_fn):
            raise ValueError(f"loss_fn={loss_fn!r}: a function of the module and a batch is needed")
        return _LossOf(module, loss_fn)
    if not is_lightning(module):
        raise ValueError(
            f"{type(module).__name__} is no LightningModule, so its loss is unknown: give "
            "loss_fn=lambda module, batch: ..."
        )
    return ModuleLoss(module)


def _samples(
    module: nn.Module,
    batches: Iterable[Any] | None,
    max_batches: int | None,
    seed: int,
) -> list[RecordedBatch]:
    if batches is None:
        raise ValueError("batches are missing: give a list of batches, or a DataLoader")
    if isinstance(batches, (Tensor, Mapping, str)) or not isinstance(batches, Iterable):
        raise ValueError(
            f"batches={type(batches).__name__}: a list of batches or a DataLoader is needed; put a "
            "single batch into a list"
        )
    if max_batches is not None and (not isinstance(max_batches, int) or max_batches < 1):
        raise ValueError(f"max_batches={max_batches!r}: a positive whole number, or None, is needed")
    device = Layout.of([p for p in module.parameters() if p.requires_grad]).device
    feed = batch_transfer_of(module, device) or partial(move_batch, device=device)
    own = generators_of(batches)
    states = [g.get_state() for g in own]
    with isolated(module) as isolated_module:
        isolated_module.load({}, random=_random_state(module, seed))
        try:
            fed = [feed(batch) for batch in islice(batches, max_batches)]
        finally:
            for generator, state in zip(own, states, strict=True):
                generator.set_state(state)
    if not fed:
        raise CurvwatchError("there is no batch: give at least one")
    sizes = [batch_size(batch) for batch in fed]
    return [
        RecordedBatch(StepInput(batch, i), weight=n / sum(sizes))
        for i, (batch, n) in enumerate(zip(fed, sizes, strict=True))
    ]


def _with_random_numbers(objective: Objective, seed: int) -> tuple[RecordedBatch, ...]:
    """The samples, those without a random state with one of their own."""
    return tuple(
        sample
        if sample.random is not None
        else replace(sample, random=_random_state(objective.module, seed + i))
        for i, sample in enumerate(objective.samples)
    )


def _random_state(module: nn.Module, seed: int) -> RandomState:
    """As after seeding everything with `seed`; the module's own generators as they are."""
    now = ModuleState.of(module).random_state()
    seed %= 2**32  # NumPy takes no more
    name, keys, *rest = cast(Any, np.random.RandomState(seed).get_state(legacy=True))
    return replace(
        now,
        torch_cpu=torch.Generator().manual_seed(seed).get_state(),
        torch_cuda={
            i: torch.Generator(device=f"cuda:{i}").manual_seed(seed).get_state() for i in now.torch_cuda
        },
        python=random.Random(seed).getstate(),
        numpy=(name, keys.tolist(), *rest),
    )
