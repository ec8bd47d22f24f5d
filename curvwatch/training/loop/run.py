"""A loop of the user's own as a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from curvwatch.errors import CurvwatchError
from curvwatch.objective import Products
from curvwatch.objective.processes import average_over
from curvwatch.objective.sharding import is_sharded
from curvwatch.training.loop.wrappers import ddp_inside, take_off_inside, without_wrappers
from curvwatch.training.run import Run, TrainingBatch

log = logging.getLogger("curvwatch")

LossFn = Callable[[Any, Any], Any]


class LoopRun(Run):
    """The steps of a loop.

    Args:
        model: as the loop calls it, in DDP or Fabric's wrapper.
        optimizers: torch's own.
        loss_fns: for each optimizer a function of the model, without DDP, and a batch.
        loggers: where readings go.
        hvp: how Hessian-vector products are made.
        chunk_size: the most examples of a part of a batch; None: found out.
        schedulers: of the learning rates.

    Attributes:
        step: the optimizer step that is being made, counted from 0.
        stopped: whether an alert asked for the end of the run.

    Raises:
        CurvwatchError: this loop cannot be measured; the message says why.
    """

    step: int = 0  # the base has an abstract property

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        loss_fns: Sequence[LossFn],
        *,
        loggers: Sequence[Any],
        hvp: Products = "exact",
        chunk_size: int | None = None,
        schedulers: Sequence[Any] = (),
    ) -> None:
        self._schedulers = schedulers
        ddp = ddp_inside(model)
        group = None if ddp is None else ddp.process_group
        spread = ddp is not None or any(map(is_sharded, model.parameters()))
        average = average_over(group) if spread else None
        several = average is not None
        super().__init__(
            without_wrappers(model),
            optimizers,
            average=average,
            processes=torch.distributed.get_world_size(group) if several else 1,
            rank=torch.distributed.get_rank() if several else 0,
            hvp=hvp,
            chunk_size=chunk_size,
        )
        if len(self.optimizers) != len(loss_fns):
            raise CurvwatchError("an optimizer without weights cannot be watched: leave it out")
        self._loss_fns = loss_fns
        self._loggers = loggers
        self.stopped = False

    @property
    def loggers(self) -> Sequence[Any]:
        """The user's, on one process of several."""
        return self._loggers if self.leads else []

    @property
    def schedulers(self) -> Sequence[Any]:
        """The user's."""
        return self._schedulers

    @property
    def leads(self) -> bool:
        """Whether this is the first process."""
        return self._rank == 0

    def loss_of(self, index: int) -> Callable[[Any], Any]:
        """The user's loss function."""
        return _Loss(self.module, partial(self._loss_fns[index], self.module))

    def publish(self, values: Mapping[str, float]) -> None:
        """Nobody but loggers is told: `Watch.step` returns `values`."""

    def stop(self, reason: str) -> None:
        """Ask the loop to end: `Watch.stopped`."""
        if self.leads:
            log.warning("the run is asked to stop: %s", reason)
        self.stopped = True

    def save(self, name: str) -> str:
        """A loop has no checkpoint that could be saved for it."""
        raise CurvwatchError(
            "a loop of your own saves its own checkpoints: on_alert takes a function that does"
        )

    def training_loss(self, loss: Tensor, *, read_now: bool) -> Tensor | None:
        """`loss` averaged over processes; None where a look at it would make the host wait."""
        if self._average is None:
            return loss.detach() if read_now or loss.device.type == "cpu" else None
        return self._average(loss.detach().float()) if read_now else None


class _Loss:
    """`function` of the user's batch, with the wrappers off the children of `module`."""

    def __init__(self, module: nn.Module, function: Callable[[Any], Any]) -> None:
        self._module = module
        self._function = function

    def __call__(self, item: TrainingBatch) -> Any:
        take_off_inside(self._module)
        return self._function(item.batch)

    def instead(self, function: Callable[[Any], Any]) -> _Loss:
        """Another function of the batch alone."""
        return _Loss(self._module, function)
