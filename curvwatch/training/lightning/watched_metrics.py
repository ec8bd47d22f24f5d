"""Readings for callbacks and schedulers that monitor a metric of curvwatch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from curvwatch.errors import ErrorPolicy
from curvwatch.measures import MEASURES, Measure

if TYPE_CHECKING:
    import lightning.pytorch as pl

_OURS = ("curvature/", "step/")
_NO_LENGTH = (
    "the training data has no length, so with accumulate_grad_batches the last step of an epoch is not "
    "known when it begins: what waits for a reading at its end gets that of an earlier step"
)


@dataclass(frozen=True)
class Watcher:
    """Who polls a metric, and when.

    Attributes:
        metric: its name, with suffix.
        who: the class of the callback or scheduler.
        every_n_batches: after batches whose number in their epoch is a multiple; None: at the end of
            each epoch and before each validation.
        every_n_steps: after steps of the Trainer whose number is a multiple, beside.
        every_n_epochs: at the end of epochs whose number is a multiple; 0: at none.
    """

    metric: str
    who: str
    every_n_batches: int | None = None
    every_n_steps: int | None = None
    every_n_epochs: int = 1


class WatchedMetrics:
    """What others poll, and whether they poll after the step that begins.

    A value is theirs once: it is read in the last step before they look, whatever cadence or budget
    there is, so that none is offered twice as if it were new.

    Args:
        trainer: in `fit`.
        every_n_epochs: the user's own cadence; None: there is none.
    """

    def __init__(self, trainer: pl.Trainer, *, every_n_epochs: int | None = None) -> None:
        self._trainer: Any = trainer
        self._every_n_epochs = every_n_epochs
        self._watchers = [w for w in _watchers(trainer) if w.metric.startswith(_OURS)]

    def __bool__(self) -> bool:
        return bool(self._watchers) or self._every_n_epochs is not None

    def warn(self, metrics: Sequence[str], errors: ErrorPolicy) -> None:
        """Say what cannot come in a run with these `metrics`."""
        for text in self.unavailable(metrics):
            errors.warn_once(text)
        if self and not self.is_epoch_end_known:
            errors.warn_once(_NO_LENGTH)

    def unavailable(self, metrics: Sequence[str]) -> list[str]:
        """What to say of metrics that are waited for and are not among the `metrics` of the run."""
        texts = []
        for watcher in self._watchers:
            name = watcher.metric
            if name in metrics:
                continue
            near = [m for m in metrics if m.startswith(f"{name}-") or name.startswith(f"{m}-")]
            reading = [key for key, measure in MEASURES.items() if name in measure.metrics]
            reads = sorted(reading, key=lambda key: MEASURES[key].expensive)
            advice = "its names are in monitor.history after a reading"
            if near:
                advice = f"this run has {', '.join(near)}"
            elif reads:
                advice = f"add {reads[0]!r} to measures=[...]"
            texts.append(
                f"{watcher.who} monitors {name!r}, which is not measured in this run: {advice}"
            )
        return texts

    @property
    def is_epoch_end_known(self) -> bool:
        """Whether the last step of an epoch is known when it begins."""
        sized = math.isfinite(self._trainer.num_training_batches)
        return sized or self._trainer.accumulate_grad_batches == 1

    def measures(self, batch_idx: int, measures: Sequence[Measure]) -> set[str]:
        """The names of those of `measures` to read in the step that begins with this batch."""
        if self.all_due(batch_idx):
            return {m.name for m in measures}
        polled = self.polled(batch_idx)
        return {
            m.name
            for m in measures
            for name in (*m.metrics, *m.sampling_metrics)
            if any(metric == name or metric.startswith((f"{name}-", f"{name}/")) for metric in polled)
        }

    def all_due(self, batch_idx: int) -> bool:
        """Whether the user's cadence asks for all measures in the step that begins with this batch."""
        n = self._every_n_epochs
        return (
            n is not None and (self._trainer.current_epoch + 1) % n == 0 and self._ends_epoch(batch_idx)
        )

    def polled(self, batch_idx: int) -> set[str]:
        """The metrics that somebody polls after the step that begins with this batch."""
        if not self._watchers:
            return set()
        trainer = self._trainer
        last = batch_idx + trainer.accumulate_grad_batches - 1
        ends = self._ends_epoch(batch_idx)
        epoch = trainer.current_epoch + 1
        validates = self._validates(last, ends=ends)
        polled = set()
        for w in self._watchers:
            by_steps = w.every_n_steps and (trainer.global_step + 1) % w.every_n_steps == 0
            if w.every_n_batches is None:
                n = w.every_n_epochs
                now = bool(n) and (validates or (ends and epoch % n == 0))
            else:
                now = (last + 1) % w.every_n_batches == 0
            if now or by_steps:
                polled.add(w.metric)
        return polled

    def _ends_epoch(self, batch_idx: int) -> bool:
        """Whether this batch is the first of the last step of its epoch, or of the run."""
        trainer = self._trainer
        if trainer.global_step + 1 == trainer.max_steps:
            return True
        batches, group = trainer.num_training_batches, trainer.accumulate_grad_batches
        if math.isfinite(batches):
            return bool(batch_idx + group >= batches)
        return bool(trainer.is_last_batch)

    def _validates(self, last: int, *, ends: bool) -> bool:
        """Whether a validation follows the batch `last`."""
        trainer = self._trainer
        if not trainer.enable_validation:
            return False
        every = trainer.val_check_batch
        if math.isinf(every):
            return ends
        n = trainer.check_val_every_n_epoch
        if n is None:  # counted over epochs
            total = trainer.fit_loop.total_batch_idx + trainer.accumulate_grad_batches
            return bool(total % every == 0)
        return bool((trainer.current_epoch + 1) % n == 0 and (last + 1) % every == 0)


def _watchers(trainer: Any) -> Iterator[Watcher]:
    for callback in trainer.callbacks:
        metric = getattr(callback, "monitor", None)
        if isinstance(metric, str):
            # private: ModelCheckpoint's own cadence (2.2 to 2.6)
            steps = getattr(callback, "_every_n_train_steps", None)
            epochs = getattr(callback, "_every_n_epochs", 1)
            who = type(callback).__name__
            yield Watcher(metric, who, every_n_steps=steps or None, every_n_epochs=epochs)
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and isinstance(config.monitor, str):
            by_step = config.interval == "step"
            yield Watcher(
                config.monitor,
                type(config.scheduler).__name__,
                every_n_batches=config.frequency if by_step else None,
                every_n_epochs=1 if by_step else config.frequency,
            )
