"""A loop of the user's own as a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from curvwatch.errors import CurvwatchError
from curvwatch.objective import Products
from curvwatch.objective.processes import Processes, is_sharded
from curvwatch.stability.unsupported import unwrap as unwrap_optimizer
from curvwatch.training.loop.wrappers import ddp_inside, unwrap, unwrap_children
from curvwatch.training.run import StepInput, TrainingRun
from curvwatch.training.steps import FinishedStep

log = logging.getLogger("curvwatch")

LossFn = Callable[[Any, Any], Any]


class LoopRun(TrainingRun):
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
        super().__init__(
            unwrap(model),
            optimizers,
            processes=Processes.of_group(group) if spread else Processes(),
            hvp=hvp,
            chunk_size=chunk_size,
        )
        if len(self.optimizers) != len(loss_fns):
            raise CurvwatchError("an optimizer has no weights: leave it out")
        self._loss_fns = loss_fns
        self._loggers = loggers
        self.stopped = False

    @property
    def loggers(self) -> Sequence[Any]:
        """The user's, on one process of several."""
        return self._loggers if self.is_main_process else []

    @property
    def schedulers(self) -> Sequence[Any]:
        """The user's."""
        return self._schedulers

    @property
    def is_main_process(self) -> bool:
        """Whether this is the first process."""
        return self.processes.rank == 0

    def loss_of(self, index: int, finished: Mapping[int, FinishedStep]) -> Callable[[Any], Any]:
        """The user's loss function."""
        return _Loss(self.module, partial(self._loss_fns[index], self.module))

    def publish(self, values: Mapping[str, float]) -> None:
        """Nothing to do: `Watch.step` returns `values`."""

    def stop(self, reason: str) -> None:
        """Ask the loop to end: `Watch.stopped`."""
        if self.is_main_process:
            log.warning("an alert asks the loop to stop: %s", reason)
        self.stopped = True

    def save(self, name: str) -> str:
        """A loop has no checkpoint that could be saved for it."""
        raise CurvwatchError("Watch saves no checkpoints: give on_alert a function that does")

    def training_loss(self, loss: Tensor | None, *, read_now: bool) -> Tensor | None:
        """`loss` averaged over processes; None where reading it would make the host wait."""
        if loss is None:
            return None
        if self.processes.size == 1:
            return loss.detach() if read_now or loss.device.type == "cpu" else None
        return self.processes.mean(loss.detach().float()) if read_now else None


class _Loss:
    """`function` of the user's batch, with the wrappers off the children of `module`."""

    def __init__(self, module: nn.Module, function: Callable[[Any], Any]) -> None:
        self._module = module
        self._function = function

    def __call__(self, item: StepInput) -> Any:
        unwrap_children(self._module)
        return self._function(item.data)

    def with_function(self, function: Callable[[Any], Any]) -> _Loss:
        """Another function of the batch alone."""
        return _Loss(self._module, function)


def check_optimizers(model: nn.Module, optimizer: Optimizer | Sequence[Optimizer]) -> list[Optimizer]:
    """The optimizers below transparent wrappers, as a list.

    Raises:
        ValueError: one is no optimizer, or has no parameter of `model`; `model` is no module.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model={model!r}: a torch.nn.Module is needed")
    given = list(optimizer) if isinstance(optimizer, (list, tuple)) else [optimizer]
    if not given:
        raise ValueError("optimizer=[]: at least one torch.optim.Optimizer is needed")
    weights = {id(p) for p in model.parameters()}
    bare = []
    for one in given:
        inner = one
        while unwrap_optimizer(inner) is not inner:
            inner = unwrap_optimizer(inner)
        if not isinstance(inner, Optimizer):
            raise ValueError(
                f"optimizer={type(one).__name__}: a torch.optim.Optimizer, or a list of them, is needed"
            )
        if weights.isdisjoint(id(p) for group in inner.param_groups for p in group["params"]):
            raise ValueError(
                f"{type(inner).__name__} holds no parameter of the model: give Watch the model that it "
                "trains (after fabric.setup, to(device) or fully_shard)"
            )
        bare.append(inner)
    return bare


def check_loss_fns(loss_fn: LossFn | Sequence[LossFn], count: int) -> list[LossFn]:
    """One for each optimizer.

    Raises:
        ValueError: one is no function, or there are more or fewer than optimizers.
    """
    fns: list[Any] = list(loss_fn) if isinstance(loss_fn, (list, tuple)) else [loss_fn] * count
    if not fns or not all(map(callable, fns)):
        raise ValueError(
            f"loss_fn={loss_fn!r}: a function of the model and a batch that returns the loss, or a "
            "list of them, one for each optimizer, is needed"
        )
    if len(fns) != count:
        raise ValueError(f"loss_fn has {len(fns)} functions for {count} optimizers: give one for each")
    return fns
