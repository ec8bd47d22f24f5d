"""A Trainer's fit as the monitor needs to see it."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from curvwatch.errors import CurvwatchError
from curvwatch.objective import Products
from curvwatch.run import Run
from curvwatch.samples import Sample
from curvwatch.trainer.processes import averager
from curvwatch.trainer.rerun import LossFn, StepLoss
from curvwatch.trees import clone_batch

if TYPE_CHECKING:
    import lightning.pytorch as pl

log = logging.getLogger("curvwatch")

# strategies, by a part of their names, and why not
_REFUSED = {
    "DeepSpeed": "takes its steps in an engine of its own, where neither weights nor gradients can be "
    "seen, so nothing is measured; DDP, and ModelParallelStrategy with fully_shard, can be",
    "FSDP": "flattens weights so that their gradients cannot be had outside of training, so nothing is "
    "measured; ModelParallelStrategy with torch's fully_shard in configure_model can be",
    "XLA": "compiles the step, which a reading cannot take apart, so nothing is measured; DDP, and "
    "ModelParallelStrategy with fully_shard, can be",
}


class FitRun(Run):
    """One call of `trainer.fit`.

    Args:
        trainer: in the midst of `fit`.
        module: the LightningModule.
        loss_fns: for each optimizer a loss to use instead of `training_step`, or None.
        hvp: how Hessian-vector products are made.

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
    ) -> None:
        self.trainer = trainer
        self.module: pl.LightningModule
        average = averager(trainer)
        super().__init__(
            module,
            # a module without optimizers has a stand-in that holds no weights
            trainer.optimizers,
            average=average,
            processes=1 if average is None else trainer.world_size,
            rank=trainer.global_rank,
            hvp=hvp,
        )
        self._loss_fns = self._one_each(loss_fns)
        self._refuse_unread_losses()

    @property
    def step(self) -> int:
        """The optimizer step that is being made: the x-axis of `self.log` (private, 2.2 to 2.6)."""
        return int(self.trainer.fit_loop.epoch_loop._batches_that_stepped)

    def begins_step(self, batch_idx: int) -> bool:
        """Whether this batch is the first, with accumulation, of an optimizer step."""
        return batch_idx % self.trainer.accumulate_grad_batches == 0

    def weighed(self, samples: Sequence[Sample]) -> list[Sample]:
        """Each with the factor of its loss: Lightning divides also where the last group is short."""
        if not self.module.automatic_optimization:
            return super().weighed(samples)
        return [replace(s, weight=1.0 / self.trainer.accumulate_grad_batches) for s in samples]

    @property
    def made_step(self) -> bool:
        """Whether this batch was the last, with accumulation, of a step (private, 2.2 to 2.6)."""
        return not self.module.automatic_optimization or not self.trainer.fit_loop._should_accumulate()

    @property
    def clips_by_value(self) -> bool:
        """Whether the Trainer clips gradients by value."""
        # the algorithm is an enumeration of strings
        clips = bool(self.trainer.gradient_clip_val)
        return clips and self.trainer.gradient_clip_algorithm == "value"

    @property
    def loggers(self) -> Sequence[Any]:
        """The Trainer's."""
        return self.trainer.loggers

    @property
    def leads(self) -> bool:
        """Whether this is global rank 0."""
        return self.trainer.is_global_zero

    def loss_of(self, index: int) -> Callable[[Any], Any]:
        """`training_step` run again, or the user's loss function."""
        return StepLoss(self.trainer, self.module, loss_fn=self._loss_fns[index])

    def fed(self, batch: Any) -> Any:
        """`batch` as it reaches `training_step`: converted, through the hooks, on the device."""
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

    def training_loss(self, outputs: Any, *, read_now: bool) -> Tensor | None:
        """The loss in `outputs` of `on_train_batch_end`, averaged over processes.

        On an accelerator a look at it makes the host wait, and several processes have to talk, so
        there it is None except in steps with a reading; those are the same on every process.
        """
        if isinstance(outputs, Mapping):
            outputs = outputs.get("loss")
        if not isinstance(outputs, Tensor):
            return None
        if self._average is None:
            return outputs.detach() if read_now or outputs.device.type == "cpu" else None
        return self._average(outputs.detach().float()) if read_now else None

    def stop(self, reason: str) -> None:
        """End the run after this batch, on every process: all have the same readings."""
        if self.trainer.is_global_zero:
            log.warning("the run is asked to stop: %s", reason)
        self.trainer.should_stop = True

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
        if "dataloader_iter" in inspect.signature(self.module.training_step).parameters:
            raise CurvwatchError(
                "training_step(dataloader_iter) fetches its own batches, which a reading cannot have: "
                "write it as training_step(batch)"
            )
        if not self.module.automatic_optimization and None in self._loss_fns:
            raise CurvwatchError(
                f"{type(self.module).__name__} optimizes by hand (automatic_optimization=False), so "
                "its training_step returns no loss that belongs to a step: give "
                "CurvatureMonitor(loss_fn=lambda module, batch: ...), or a list with one for each "
                "optimizer"
            )
