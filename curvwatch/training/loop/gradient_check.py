"""The gradient that made a step against that of its loss.

A plain loop does not report when a gradient is clipped: the gradient is taken as the optimizer gets
it, and what was done to it is inferred by computing the gradient of the loss once more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from curvwatch.measures import Measure
from curvwatch.objective.flat_layout import Layout
from curvwatch.stability.unsupported import BY_VALUE
from curvwatch.training.plan import ReadingPlan
from curvwatch.training.reader import Readings
from curvwatch.training.run import TrainingRun
from curvwatch.training.steps import FinishedStep

WRONG_ORDER = (
    "no optimizer has made a step when Watch.step is called: call it after optimizer.step(), and give "
    "Watch the optimizer that makes the steps"
)
NOT_REPEATABLE = (
    "the step is not repeatable: when loss_fn is called again with the batch of Watch.step and the "
    "random numbers of the forward pass, its gradient differs by {:.0%} from the one that made the "
    "step, so the values of the step describe another loss and raise no alert. Perhaps loss_fn draws "
    "random numbers before it calls the model, or changes its batch (compute the loss with Watch.loss "
    "to solve both), or Watch.step got another batch, or the loop changes the gradient"
)

# other kernels for attention, in bfloat16, stay under this
_REPEATABLE = 0.05
# a factor this near to 1 is rounding
_UNSCALED = 1e-3


@dataclass(frozen=True)
class GradientCheck:
    """A gradient that made a step against that of the loss.

    Attributes:
        factor: by which it was scaled; None where it is of another direction.
        by_value: whether it is that of the loss, clipped by value.
        across: where it is neither, its part across that of the loss, relative to its length.
    """

    factor: float | None
    by_value: bool = False
    across: float | None = None

    @classmethod
    def of_step(
        cls,
        run: TrainingRun,
        plan: ReadingPlan,
        index: int,
        step: FinishedStep,
        made: Mapping[int, Tensor],
    ) -> GradientCheck:
        """Compare `made`, by `id(parameter)`, with the gradient of the loss of optimizer `index`."""
        params = step.settings.params
        objective = run.objective(index, params, run.weight_samples(plan.samples), train=None)
        with objective.open(plan.weights(step)) as opened:
            _, g = opened.gradient()
        return cls.of(objective.layout, g, objective.layout.flatten([made.get(id(p)) for p in params]))

    @classmethod
    def of(cls, layout: Layout, g: Tensor, made: Tensor) -> GradientCheck:
        """Compare `made` with `g`, that of the loss; both of shape (size,)."""
        across, along = layout.deviation(g, made)
        if across <= _REPEATABLE and along > 0.0:
            return cls(1.0 if abs(along - 1.0) <= _UNSCALED else along)
        limit = float(made.abs().max())
        clipped, scale = layout.deviation(g.clamp(-limit, limit), made)
        if clipped <= _REPEATABLE and abs(scale - 1.0) <= _REPEATABLE:
            return cls(None, by_value=True)
        return cls(None, across=across)

    def corrected(self, step: FinishedStep) -> FinishedStep:
        """`step` with the law of stability that holds for such gradients."""
        law = step.settings.law
        if law.edge is None or self.factor == 1.0:
            return step
        if self.factor is not None:
            shift = tuple(c / self.factor for c in law.shift)
            law = replace(law, edge=law.edge / self.factor, shift=shift)
        elif self.by_value:
            law = replace(law, edge=None, reason=BY_VALUE)
        return replace(step, settings=replace(step.settings, law=law))

    def doubt(self, readings: Readings, measures: Sequence[Measure], suffix: str) -> None:
        """Mark the values of the step as another loss's, where the gradient is."""
        if self.across is None:
            return
        text = NOT_REPEATABLE.format(self.across)
        readings.notes.append(text)
        readings.doubts.append((f"the step{suffix}", text))
        names = [name for m in measures if m.stage == "step" for name in m.metrics]
        readings.doubtful |= {name + suffix for name in names}


def corrected_steps(
    run: TrainingRun,
    plan: ReadingPlan,
    finished: Mapping[int, FinishedStep],
    gradients: Mapping[int, Mapping[int, Tensor]],
    readings: Readings,
) -> dict[int, FinishedStep]:
    """`finished`, with the laws of stability for what was done to the `gradients` that made them."""
    corrected = dict(finished)
    for index, step in finished.items():
        gradient = dict(gradients.get(index, {}))
        if not gradient:
            continue
        step = corrected[index] = replace(step, used=gradient)
        if plan.landscape or any(m.looks_at_loss for m in plan.step):
            check = GradientCheck.of_step(run, plan, index, step, gradient)
            corrected[index] = check.corrected(step)
            check.doubt(readings, plan.step, run.suffixes[index])
    return corrected
