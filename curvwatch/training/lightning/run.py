"""A Trainer's fit as the monitor needs to see it."""

from __future__ import annotations

import inspect
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from curvwatch.errors import CurvwatchError
from curvwatch.objective import Products
from curvwatch.objective.isolation.containers import clone_batch
from curvwatch.objective.processes import Processes
from curvwatch.objective.samples import RecordedBatch
from curvwatch.training.lightning.backward_recorder import GIVE_ONE
from curvwatch.training.lightning.dataloader_iter import Fetch, Fetched, FetchRecorder
from curvwatch.training.lightning.hook_switch import StrategyHook
from curvwatch.training.lightning.manual_loss import ManualOptimizationLoss, ManualStepFacts, StepBatch
from curvwatch.training.lightning.training_step import LossFn, TrainingStepLoss
from curvwatch.training.run import StepInput, TrainingRun
from curvwatch.training.steps import FinishedStep

if TYPE_CHECKING:
    import lightning.pytorch as pl


def monitor_suffixes(trainer: pl.Trainer, optimizers: Sequence[Optimizer]) -> list[str]:
    """Nothing for a single optimizer, else what follows "lr" in LearningRateMonitor's names.

    It numbers optimizers of one class, those of schedulers first, and takes a scheduler's own name.
    (Read in 2.2 to 2.6.) Where two of its names are equal, ours get numbers.
    """
    if len(optimizers) == 1:
        return [""]
    counts: Counter[type] = Counter()
    names: dict[int, str] = {}

    def see(optimizer: Any, name: str | None) -> None:
        kind = type(optimizer)
        counts[kind] += name is None
        number = f"-{counts[kind] - 1}" if counts[kind] > 1 else ""
        # of several schedulers of one optimizer the first
        names.setdefault(id(optimizer), f"{name or kind.__name__}{number}")

    for config in trainer.lr_scheduler_configs:
        see(config.scheduler.optimizer, config.name)
    for optimizer in trainer.optimizers:
        if id(optimizer) not in names:
            see(optimizer, None)
    return _distinct([f"-{names[id(optimizer)]}" for optimizer in optimizers])


def _distinct(names: Sequence[str]) -> list[str]:
    result: list[str] = []
    for name in names:
        number, distinct = 0, name
        while distinct in result:
            number += 1
            distinct = f"{name}-{number}"
        result.append(distinct)
    return result


log = logging.getLogger("curvwatch")

# strategies, by a part of their names, and why not
_REFUSED = {
    "DeepSpeed": "makes its steps in its own engine, which gives access to neither weights nor "
    "gradients, so nothing is measured; use DDP, or ModelParallelStrategy with fully_shard",
    "FSDP": "flattens weights, so gradients are not available outside of training, and nothing is "
    "measured; use ModelParallelStrategy with torch's fully_shard in configure_model",
    "XLA": "compiles the step as a whole, of which a reading cannot run a part, so nothing is "
    "measured; use DDP, or ModelParallelStrategy with fully_shard",
}


def _processes_of(trainer: pl.Trainer) -> Processes:
    if trainer.world_size == 1 or not torch.distributed.is_initialized():
        return Processes(rank=trainer.global_rank)
    return Processes(trainer.world_size, trainer.global_rank)


class LightningRun(TrainingRun):
    """One call of `trainer.fit`.

    Args:
        trainer: in the midst of `fit`.
        module: the LightningModule.
        loss_fns: for each optimizer a loss to use instead of `training_step`, or None.
        hvp: how Hessian-vector products are made.
        chunk_size: the most examples of a part of a batch; None: found out.

    Raises:
        CurvwatchError: this run cannot be measured; the message says why and what would help.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        *,
        loss_fns: LossFn | Sequence[LossFn] | None,
        hvp: Products = "exact",
        chunk_size: int | None = None,
    ) -> None:
        self.trainer = trainer
        self.module: pl.LightningModule
        super().__init__(
            module,
            # a module without optimizers has a stand-in that holds no weights
            trainer.optimizers,
            processes=_processes_of(trainer),
            hvp=hvp,
            chunk_size=chunk_size,
        )
        self.suffixes = monitor_suffixes(trainer, self.optimizers)
        self._shown: dict[str, Tensor] = {}
        self._loss_fns = self._one_each(loss_fns)
        self._knowledge = [ManualStepFacts() for _ in self.optimizers]
        self._batch_idx = 0
        self._first_step = self.step
        self._optimizers_at_start = list(trainer.optimizers)
        parameters = inspect.signature(module.training_step).parameters
        fetches = "dataloader_iter" in parameters
        self._fetches = FetchRecorder(trainer, module) if fetches else None
        self._refuse_unread_losses()

    @property
    def step(self) -> int:
        """The optimizer step that is being made: the x-axis of `self.log` (private, 2.2 to 2.6)."""
        return int(self.trainer.fit_loop.epoch_loop._batches_that_stepped)

    @property
    def total_steps(self) -> int | None:
        """Of the whole run, by epochs, steps and time, whichever ends it first; None: nobody knows."""
        trainer, step = self.trainer, self.step
        try:
            total = float(trainer.estimated_stepping_batches)
            if total == trainer.max_steps and step and trainer.global_step > step:
                total *= step / trainer.global_step  # max_steps counts those of each optimizer
            callbacks: Any = getattr(trainer, "callbacks", ())
            for timer in (c for c in callbacks if hasattr(c, "time_remaining")):  # max_time
                left, passed = timer.time_remaining(), timer.time_elapsed()
                made = step - self._first_step
                if left is not None and passed > 0 and made > 0:
                    total = min(total, step + max(1.0, left * made / passed))
        except Exception:  # an estimate at best: a loader without a length, a strategy of its own
            return None
        return None if math.isinf(total) else max(1, int(total))

    def is_first_batch_of_step(self, batch_idx: int) -> bool:
        """Whether this batch is the first, with accumulation, of an optimizer step."""
        # so Lightning clears gradients, also where it has the batch_idx before (dataloader_iter)
        return batch_idx % self.trainer.accumulate_grad_batches == 0

    def item(self, batch: Any, batch_idx: int) -> StepInput:
        """What `training_step` is about to be called with."""
        self._batch_idx = batch_idx
        if self._fetches:
            batch = self._fetches.expect()
        return StepInput(batch, batch_idx, self.trainer.global_step)

    def begin_fetches(self) -> None:
        """Where `training_step` fetches its batches, record those of an item that was kept."""
        if self._fetches:
            self._fetches.begin()

    def end_fetches(self) -> None:
        """The step is over."""
        if self._fetches:
            self._fetches.end()

    @property
    def has_its_optimizers(self) -> bool:
        """Whether the Trainer still has the optimizers that it began with."""
        return bool(self.trainer.optimizers == self._optimizers_at_start)

    @property
    def fetches(self) -> bool:
        """Whether `training_step` fetches its batches itself."""
        return self._fetches is not None

    @property
    def batch_weight(self) -> float:
        """What a batch's loss is multiplied by before it is passed to backward()."""
        return 1.0 / self.trainer.accumulate_grad_batches

    def weight_samples(self, samples: Sequence[RecordedBatch]) -> list[RecordedBatch]:
        """Each with the factor of its loss: Lightning divides also where the last group is short."""
        if self.module.automatic_optimization:
            return [replace(s, weight=self.batch_weight) for s in samples]
        if self._infers_losses:  # what is passed to backward() adds up
            return [replace(s, batch=StepBatch(*s.batch)) for s in samples]
        return super().weight_samples(samples)

    @property
    def is_last_batch_of_step(self) -> bool:
        """Whether this batch was the last, with accumulation, of a step (private, 2.2 to 2.6)."""
        if not self.module.automatic_optimization:
            return True
        loop = self.trainer.fit_loop
        # without backward the optimizer steps by old gradients (StochasticWeightAveraging's last epoch)
        return not loop._should_accumulate() and not loop._skip_backward

    @property
    def clips_by_value(self) -> bool:
        """Whether the Trainer clips gradients by value."""
        # the algorithm is an enumeration of strings
        clips = bool(self.trainer.gradient_clip_val)
        return clips and self.trainer.gradient_clip_algorithm == "value"

    @property
    def schedulers(self) -> Sequence[Any]:
        """The Trainer's."""
        return [config.scheduler for config in self.trainer.lr_scheduler_configs]

    @property
    def loggers(self) -> Sequence[Any]:
        """The Trainer's."""
        return self.trainer.loggers

    @property
    def is_main_process(self) -> bool:
        """Whether this is global rank 0."""
        return self.trainer.is_global_zero

    def loss_of(self, index: int, finished: Mapping[int, FinishedStep]) -> Callable[[Any], Any]:
        """`training_step` run again, or the user's loss function."""
        if not self._infers_losses:
            return TrainingStepLoss(self.trainer, self.module, loss_fn=self._loss_fns[index])
        return ManualOptimizationLoss(
            self.trainer,
            self.module,
            optimizers=self.optimizers,
            index=index,
            name=self.suffixes[index][1:] or type(self.optimizers[index]).__name__,
            knowledge=self._knowledge[index],
            batch_idx=self._batch_idx,
            finished=finished,
        )

    @property
    def half(self) -> bool:
        """Whether training computes in half precision."""
        return "16" in str(self.trainer.precision)

    def call_before_step(self, call: Callable[[Any, int], None]) -> StrategyHook:
        """Call `call(batch, batch_idx)` right before each training step, until it is removed."""
        return StrategyHook(self.trainer.strategy, call)

    def prepare_batch(self, batch: Any) -> Any:
        """`batch` as it reaches `training_step`: converted, through the hooks, on the device."""
        if self._fetches:
            return Fetched([Fetch(clone_batch(batch), 0, 0, None)])
        batch = self.trainer.precision_plugin.convert_input(clone_batch(batch))
        # private: what the training loop calls there (read in 2.2 to 2.6)
        batch = self.module._on_before_batch_transfer(batch, dataloader_idx=0)
        return self.trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    def publish(self, values: Mapping[str, float]) -> None:
        """Show `values` to callbacks that monitor them, and the stability ratio to the user."""
        shown = self.trainer.callback_metrics
        # a missing value is no reason to stop: EarlyStopping takes nan for one
        shown.update({k: torch.tensor(v) for k, v in values.items() if not math.isnan(v)})
        for suffix in self.suffixes:
            # the step's where the optimizer has no edge
            for name in ("curvature/stability_ratio", "step/stability_ratio"):
                ratio = shown.get(name + suffix)
                if ratio is not None and not ratio.isnan():
                    self.trainer.progress_bar_metrics[f"stability_ratio{suffix}"] = float(ratio)
                    break

    def logged(self, names: Sequence[str]) -> dict[str, float]:
        """Those that `self.log` wrote since the last call; a look at each makes the host wait."""
        shown = self.trainer.callback_metrics
        news = {n: shown[n] for n in names if n in shown and shown[n] is not self._shown.get(n)}
        self._shown.update(news)
        # the same on every process, also where only one logs
        values = self.processes.mean_of([float(news[n]) if n in news else math.nan for n in names])
        return dict(zip(names, values, strict=True))

    def batch_loss(self, outputs: Any) -> Tensor | None:
        """The loss in `outputs` of `on_train_batch_end`, as it was sent backward; None if unknown."""
        if isinstance(outputs, Mapping):
            outputs = outputs.get("loss")
        return outputs.detach() if isinstance(outputs, Tensor) and outputs.numel() == 1 else None

    def host_loss(self, outputs: Any) -> float | None:
        """The loss in `outputs` where looking at it costs nothing: one process, on the CPU."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if not isinstance(loss, Tensor) or not loss.is_cpu or self.processes.size > 1:
            return None
        if loss.numel() != 1:
            return None
        return float(loss)

    def training_loss(self, outputs: Any, *, read_now: bool) -> Tensor | None:
        """The loss in `outputs`, averaged over processes.

        On an accelerator a look at it makes the host wait, and several processes have to talk, so
        there it is None except in steps with a reading; those are the same on every process.
        """
        loss = self.batch_loss(outputs)
        if loss is None:
            return None
        if self.processes.size == 1:
            return loss if read_now or loss.device.type == "cpu" else None
        return self.processes.mean(loss.float()) if read_now else None

    def reports_measured_loss(self, index: int) -> bool:
        """Whether what is measured is the loss in `outputs`."""
        return self.module.automatic_optimization and self._loss_fns[index] is None

    def stop(self, reason: str) -> None:
        """End the run after this batch, on every process: all have the same readings."""
        if self.trainer.is_global_zero:
            log.warning("stopping the run: %s", reason)
        self.trainer.should_stop = True

    def save(self, name: str) -> str:
        """A checkpoint of the Trainer's, where its others are; every process takes part."""
        checkpoint = self.trainer.checkpoint_callback
        folder = getattr(checkpoint, "dirpath", None) or self.trainer.log_dir
        folder = Path(self.trainer.strategy.broadcast(folder or self.trainer.default_root_dir))
        path = str(folder / f"{name}.ckpt")
        self.trainer.save_checkpoint(path)
        return path

    def _one_each(self, loss_fns: LossFn | Sequence[LossFn] | None) -> list[LossFn | None]:
        count = len(self.optimizers)
        if loss_fns is None or callable(loss_fns):
            return [loss_fns] * count
        if len(loss_fns) != count:
            raise CurvwatchError(
                f"loss_fn has {len(loss_fns)} functions and the run {count} optimizers: give one "
                "for each, in the order of configure_optimizers"
            )
        return list(loss_fns)

    def _refuse(self) -> None:
        strategy = type(self.trainer.strategy).__name__
        for word, why in _REFUSED.items():
            if word in strategy:
                raise CurvwatchError(f"{strategy} {why}")
        super()._refuse()

    def _refuse_unread_losses(self) -> None:
        if self._infers_losses and self.sharded:
            raise CurvwatchError(
                f"{type(self.module).__name__} uses manual optimization with sharded weights, so the "
                f"losses of its steps cannot be inferred: {GIVE_ONE}"
            )
        if self._fetches and self._loss_fns != [None] * len(self._loss_fns):
            raise CurvwatchError(
                "training_step(dataloader_iter) may fetch any number of batches, so there is no one "
                "batch for loss_fn(module, batch): leave it out, or write training_step(batch)"
            )

    @property
    def _infers_losses(self) -> bool:
        """Whether losses are inferred from what `training_step` passes to backward()."""
        return not self.module.automatic_optimization and None in self._loss_fns
