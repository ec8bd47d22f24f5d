"""What a measure is: one quantity, its metrics, and how it is read."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from curvwatch.charts.histogram import Histogram
from curvwatch.checks import check_int
from curvwatch.objective import OpenObjective
from curvwatch.stability import StabilityLaw

Stage = Literal["landscape", "step"]

# what a reading of the landscape cost, all measures and optimizers together: Hessian-vector
# products, seconds, and the share of the training time so far that all readings took
COST_METRICS = ("curvature/cost_hvps", "curvature/cost_seconds", "curvature/cost_share")


@dataclass(frozen=True)
class Reading:
    """What one measure read at one step.

    Attributes:
        values: metric name to value; nan where a value is not available.
        notes: why a value is missing or not to be trusted, in words.
        doubtful: names of the values that may be wrong: they are logged, and raise no alert.
        doubts: why, in words; part of no other note.
        broken: names of the values that are nan or inf because the loss, a derivative or the weights
            are not finite; a value that is missing for another reason is not among them.
        histograms: distributions by name, such as a spectral density.
    """

    values: Mapping[str, float]
    notes: tuple[str, ...] = ()
    doubtful: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    histograms: Mapping[str, Histogram] = field(default_factory=dict)


@dataclass(frozen=True)
class Landscape:
    """What a landscape measure may use: the loss on the probe at w(t), and the optimizer.

    Attributes:
        objective: the loss on the probe, of the isolated module.
        learning_rates: of each parameter of the objective, in force at this step.
        law: the optimizer's law of stability, for the same parameters.
        memory: the measure's own, kept from reading to reading and in checkpoints: tensors and plain
            Python only.
        generator: of random vectors; the same at the same step of every run.
        update: makes d = w(t+1) - w(t), shape (size,); None where no step was seen.
    """

    objective: OpenObjective
    learning_rates: Sequence[float]
    law: StabilityLaw
    memory: MutableMapping[str, Any]
    generator: torch.Generator
    update: Callable[[], Tensor] | None = None


@dataclass(frozen=True)
class Step:
    """What a step measure may use: the loss of the step's own batch at w(t), and the step.

    Attributes:
        objective: the loss of the batch that made the step, at w(t), with the same random numbers.
        update: d = w(t+1) - w(t), shape (size,).
        weight_norm: |w(t)|.
        gradient: the one that made the step, before clipping, shape (size,); None where it is unknown.
        loss: f(w(t)) as training had it; nan where it is unknown.
        memory: the measure's own, kept from reading to reading and in checkpoints: tensors and plain
            Python only.
        compared: by name the steps that compared optimizers would have made, shape (size,).
        used: the gradient as the optimizer got it, unscaled and clipped, shape (size,); None where it
            is unknown, or no measure needs it.
    """

    objective: OpenObjective
    update: Tensor
    weight_norm: float
    gradient: Tensor | None = None
    loss: float = math.nan
    memory: MutableMapping[str, Any] = field(default_factory=dict)
    compared: Mapping[str, Tensor] = field(default_factory=dict)
    used: Tensor | None = None


class Measure(ABC):
    """One quantity of the loss landscape or of an optimizer step.

    Args:
        every_n_steps: cadence of this measure alone; None: the monitor's.

    Attributes:
        name: how it is asked for, `CurvatureMonitor(measures=["sharpness"])`.
        stage: "landscape": read on the probe before a step; "step": read once the step is taken.
        metrics: the names of its values.
        sampling_metrics: further ones, where the objective is a mean over several batches.
        looks_at_loss: whether it evaluates the loss; one of the gradients of training alone does not.
        needs_used: whether it needs `Step.used`.
        expensive: whether a reading costs several times what the sharpness does: the budget then gives
            all expensive measures a cadence of their own, so that the cheap ones are read often.
        dear: the former name of `expensive`; a measure of your own that sets it is honoured.
    """

    name: str
    stage: ClassVar[Stage]
    metrics: tuple[str, ...]
    sampling_metrics: ClassVar[tuple[str, ...]] = ()
    looks_at_loss: ClassVar[bool] = True
    needs_used: ClassVar[bool] = False
    expensive: ClassVar[bool] = False
    dear: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "dear" in vars(cls):
            text = f"{cls.__name__}.dear is deprecated: set `expensive` instead"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            if "expensive" not in vars(cls):
                cls.expensive = cls.dear
        cls.dear = cls.expensive

    def __init__(self, *, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None:
            check_cadence(every_n_steps)
        self.every_n_steps = every_n_steps

    def metrics_of(self, module: nn.Module, params: Sequence[Tensor]) -> tuple[str, ...]:
        """The names of its values in a run that trains `params` of `module`; by default `metrics`."""
        return self.metrics


class LandscapeMeasure(Measure):
    """A measure of the loss on the probe."""

    stage: ClassVar[Stage] = "landscape"

    @abstractmethod
    def read(self, at: Landscape) -> Reading:
        """Read the quantity."""


class StepMeasure(Measure):
    """A measure of one optimizer step."""

    stage: ClassVar[Stage] = "step"

    @abstractmethod
    def read(self, step: Step) -> Reading:
        """Read the quantity."""


def check_cadence(every_n_steps: int) -> None:
    """Raise a ValueError unless `every_n_steps` is a positive integer."""
    needed = "a positive number of optimizer steps, such as 10,"
    check_int("every_n_steps", every_n_steps, at_least=1, what=needed)
