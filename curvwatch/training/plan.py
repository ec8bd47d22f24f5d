"""What is due at one step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from curvwatch.measures import Measure
from curvwatch.objective.isolation.containers import clone_batch
from curvwatch.objective.isolation.isolate import ModuleState
from curvwatch.objective.processes import local
from curvwatch.objective.samples import RecordedBatch
from curvwatch.training.run import StepInput, TrainingRun
from curvwatch.training.steps import FinishedStep


@dataclass
class ReadingPlan:
    """What is due at one step, and what is kept for it from the step's beginning.

    Attributes:
        landscape: measures to read on the probe.
        step: measures to read of the step.
        module_state: buffers and attributes of the module at w(t).
        others: from `id(weight)` to the value at w(t) of the weights that no optimizer has; a moving
            average moves in `training_step`.
        samples: the batches of the step.
        global_step: Lightning's, at w(t).
        losses: of the batches of the step, as training had them; None where one is unknown.
        ready: whether all of this could be saved.
    """

    landscape: list[Measure] = field(default_factory=list)
    step: list[Measure] = field(default_factory=list)
    module_state: ModuleState | None = None
    others: dict[int, Tensor] = field(default_factory=dict)
    samples: list[RecordedBatch] = field(default_factory=list)
    global_step: int | None = None
    losses: list[Tensor] | None = field(default_factory=list)
    ready: bool = True
    _lossless: list[RecordedBatch] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.landscape or self.step)

    def save_module_state(self, run: TrainingRun, item: StepInput) -> None:
        """Keep what the loss depends on at w(t) beside the optimizers' weights."""
        state = ModuleState.of(run.module, run.graph)
        held = {id(p) for o in run.optimizers for group in o.param_groups for p in group["params"]}
        self.module_state = state.copied()
        self.others = {id(w): local(w.detach()).clone() for w in state.weights if id(w) not in held}
        self.global_step = item.global_step

    def add_loss(self, loss: Tensor | None) -> None:
        """Take the loss of one batch as training had it, times its weight in the step."""
        if loss is None:
            self.losses = None
        elif self.losses is not None:
            self.losses.append(loss)

    def drop_last_batch(self) -> None:
        """The newest batch made no loss, and is no part of the step; unless no batch made one."""
        self._lossless += self.samples[-1:]

    @property
    def step_samples(self) -> list[RecordedBatch]:
        """The batches that the step was made of."""
        return [s for s in self.samples if all(s is not x for x in self._lossless)] or self.samples

    @property
    def trained_loss(self) -> float:
        """Of the whole step; nan where it is unknown."""
        if not self.losses or len(self.losses) != len(self.step_samples):
            return math.nan
        return float(torch.stack([loss.float() for loss in self.losses]).sum())

    def weights(self, finished: FinishedStep | None) -> dict[int, Tensor]:
        """All weights before the step `finished`; None: the optimizers' are the present ones."""
        return {**self.others, **(finished.before if finished else {})}

    def add_batch(self, run: TrainingRun, item: StepInput) -> None:
        """Keep a batch of the step, and all that its loss depends on."""
        state = ModuleState.of(run.module, run.graph)
        saved = None if self.samples else self.module_state
        if saved is None:
            saved = state.copied()
        self.samples.append(
            RecordedBatch(
                item._replace(data=clone_batch(item.data)),
                random=state.random_state(),
                memory=saved,
            )
        )
