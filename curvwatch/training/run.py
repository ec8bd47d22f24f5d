"""A training run as readings need to see it, whoever drives the loop."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from curvwatch.charts.metric_names import group_suffixes, optimizer_suffixes
from curvwatch.errors import CurvwatchError
from curvwatch.measures import COST_METRICS, Measure
from curvwatch.objective import Objective, Products
from curvwatch.objective.chunk_size import ChunkSize
from curvwatch.objective.isolation.object_graph import KeptGraph
from curvwatch.objective.processes import Processes, is_sharded
from curvwatch.objective.samples import RecordedBatch
from curvwatch.training.learning_rates import LearningRates
from curvwatch.training.optimizer_groups import rate_of, trained

if TYPE_CHECKING:
    from curvwatch.training.steps import FinishedStep

_HALF = (torch.float16, torch.bfloat16)


class StepInput(NamedTuple):
    """The batch of a call of `training_step`, and its `global_step`; None: the present one."""

    data: Any
    batch_idx: int
    global_step: int | None = None


class TrainingRun(ABC):
    """What a reading uses of a run.

    Args:
        module: what is trained.
        optimizers: that train it; those without weights are left out.
        processes: those that train together.
        hvp: how Hessian-vector products are made, see `Objective`.
        chunk_size: the most examples of a part of a batch, see `ChunkSize`; None: found out.

    Raises:
        CurvwatchError: there is nothing to measure, or an optimizer cannot be watched.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizers: Sequence[Optimizer],
        *,
        processes: Processes,
        hvp: Products = "exact",
        chunk_size: int | None = None,
    ) -> None:
        self.module = module
        self.graph = KeptGraph(module)
        self.optimizers = _with_weights(optimizers)
        self.suffixes = optimizer_suffixes(self.optimizers)
        self.sharded = any(is_sharded(p) for o in self.optimizers for p in trained(o))
        self.processes = replace(
            processes, device=_device_of(self.optimizers), have_own_batches=not self.sharded
        )
        self._hvp: Products = hvp
        self._chunk_size = chunk_size
        self._chunk_sizes: dict[tuple[int, bool | None], ChunkSize] = {}
        self.rates = LearningRates(self.optimizers, self.schedulers)
        self._metrics: dict[tuple[str, int], tuple[str, ...]] = {}
        self._refuse()

    @property
    @abstractmethod
    def step(self) -> int:
        """The optimizer step that is being made."""

    @property
    def total_steps(self) -> int | None:
        """How many optimizer steps the whole run will make; None: nobody knows."""
        return None

    @property
    def rate(self) -> float:
        """The first optimizer's, of its first group; nan where reading it would make the host wait."""
        group = self.optimizers[0].param_groups[0]
        rate = group.get("lr")
        on_device = isinstance(rate, Tensor) and rate.device.type != "cpu"
        return math.nan if on_device else rate_of(group)

    @property
    @abstractmethod
    def loggers(self) -> Sequence[Any]:
        """Where readings go."""

    @property
    @abstractmethod
    def is_main_process(self) -> bool:
        """Whether this is rank 0."""

    @property
    def schedulers(self) -> Sequence[Any]:
        """Of the learning rates."""
        return ()

    @abstractmethod
    def loss_of(self, index: int, finished: Mapping[int, FinishedStep]) -> Callable[[Any], Any]:
        """The loss of optimizer `index` as a function of a `StepInput`.

        Args:
            index: of the optimizer.
            finished: the steps that were made in the present batch, by optimizer index.
        """

    def reports_measured_loss(self, index: int) -> bool:
        """Whether the loss that is measured for optimizer `index` is the one that training reports."""
        return False

    @abstractmethod
    def publish(self, values: Mapping[str, float]) -> None:
        """Show `values` to others than loggers."""

    def logged(self, names: Sequence[str]) -> dict[str, float]:
        """The user's own metrics `names` that are new since the last call, averaged over processes."""
        return {}

    @abstractmethod
    def stop(self, reason: str) -> None:
        """End the run after this step."""

    @abstractmethod
    def save(self, name: str) -> str:
        """Save a checkpoint under `name`, on every process; its path."""

    def scale_rates(self, factor: float) -> str:
        """Multiply all learning rates from now on; what changed, in words."""
        return self.rates.scale(factor)

    def warm_up(self, steps: int, start: float) -> str:
        """Let all learning rates rise from `start` times theirs; what changed, in words."""
        return self.rates.warm_up(steps, start)

    def weight_samples(self, samples: Sequence[RecordedBatch]) -> list[RecordedBatch]:
        """The batches of one step, each with the factor of its loss; by default their mean."""
        return [replace(s, weight=1.0 / len(samples)) for s in samples]

    def objective(
        self,
        index: int,
        params: Sequence[Tensor],
        samples: Sequence[RecordedBatch],
        *,
        train: bool | None,
        finished: Mapping[int, FinishedStep] | None = None,
    ) -> Objective:
        """The loss of optimizer `index` on `samples`, as a function of `params`.

        `finished` are the steps that were made in the present batch, by optimizer index.
        """
        return Objective(
            self.module,
            self.loss_of(index, finished or {}),
            samples,
            params=params,
            train=train,
            hvp=self._hvp,
            chunking=self._chunk_sizes.setdefault((index, train), ChunkSize(self._chunk_size)),
            processes=self.processes,
            kept=self.graph,
        )

    @property
    def unchunked_reasons(self) -> list[str]:
        """Why batches that are too large for a reading are not taken in parts."""
        return [c.refused for c in self._chunk_sizes.values() if c.refused is not None]

    def metric_names(self, measures: Sequence[Measure], *, batches: int) -> list[str]:
        """All metrics that `measures` will log in this run, with `batches` in each process's probe."""
        several = batches * self.processes.with_own_batches > 1
        names = [
            name + suffix
            for index, suffix in enumerate(self.suffixes)
            for m in measures
            for name in self.metrics_of(m, index) + (m.sampling_metrics if several else ())
        ]
        if any(m.stage == "landscape" for m in measures):
            names += [
                f"curvature/edge{suffix}{group}"
                for optimizer, suffix in zip(self.optimizers, self.suffixes, strict=True)
                for group in group_suffixes(optimizer)
            ]
            names += COST_METRICS
        return names

    def metrics_of(self, measure: Measure, index: int) -> tuple[str, ...]:
        """The metrics of `measure` for optimizer `index`, without suffix: the same in the whole run."""
        key = measure.name, index
        if key not in self._metrics:
            self._metrics[key] = measure.metrics_of(self.module, trained(self.optimizers[index]))
        return self._metrics[key]

    def generator(self) -> torch.Generator:
        """Of random vectors: the same at the same step of every run; each shard has its own."""
        shard = self.processes.rank if self.sharded else 0
        return torch.Generator().manual_seed(self.step + (shard << 40))

    def has_optimizers(self, optimizers: Sequence[Optimizer]) -> bool:
        """Whether `optimizers` are the ones of this run."""
        return list(map(id, _with_weights(optimizers))) == list(map(id, self.optimizers))

    @property
    def gradients_are_clear(self) -> bool:
        """Whether no weight has a gradient: a step that went on over several batches is over."""
        return all(p.grad is None for o in self.optimizers for p in trained(o))

    @property
    def half(self) -> bool:
        """Whether training computes in half precision."""
        return any(p.dtype in _HALF for o in self.optimizers for p in trained(o))

    def _refuse(self) -> None:
        if not self.optimizers or not any(trained(o) for o in self.optimizers):
            raise CurvwatchError(
                "the optimizers hold no parameter with requires_grad=True: there is nothing to measure"
            )
        for optimizer in self.optimizers:
            if not hasattr(optimizer, "register_step_pre_hook"):
                raise CurvwatchError(
                    f"{type(optimizer).__name__} is not a torch.optim.Optimizer, so its steps cannot "
                    "be observed: return the optimizer that it wraps from configure_optimizers, or "
                    "make it a subclass"
                )


def _with_weights(optimizers: Sequence[Optimizer]) -> list[Optimizer]:
    return [o for o in optimizers if any(g["params"] for g in o.param_groups)]


def _device_of(optimizers: Sequence[Optimizer]) -> torch.device:
    """Where the first weight is; numbers that processes exchange go there."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                device: torch.device = weight.device
                return device
    return torch.device("cpu")
