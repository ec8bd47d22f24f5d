"""Gradient correlation, directional sharpness and loss change of one optimizer step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, get_args

from torch import Tensor

from curvwatch.checks import check_choice
from curvwatch.measures.base import Reading, Step, StepMeasure
from curvwatch.measures.compared import METRICS, Compares, make_compared
from curvwatch.measures.matrices import COARSEST
from curvwatch.objective.flat_layout import Layout
from curvwatch.objective.linearization import Linearization

Curvature = Literal["exact", "secant"]
# other kernels for attention, in bfloat16, stay under this
_REPEATABLE = 0.05
_ROUGH = (
    "step/directional_sharpness is not to be trusted: differences of gradients give {:.3g} +- {:.2g}, "
    "as the gradient has kinks or is rounded"
)
# the gradient of training stands in for that of a re-run while what follows from it differs by less,
# and this is looked at in every so many readings
_SAME = 0.01
_CHECK_EVERY = 20
_OF_CURVATURE = (
    "step/directional_sharpness",
    "step/predicted_loss_change",
    "step/stability_ratio",
)
_OTHER_LOSS = (
    "training_step is not repeatable: run again on the same batch, with the same random numbers, its "
    "gradient is off by {:.0%} from the one that made the step, so the values of the step are of "
    "another loss, and raise no alert. Perhaps a hook changes the gradient, or the batch or the module "
    "while it is computed, or parameters outside the module take part; under manual optimization "
    "loss_fn=lambda module, batch: ... defines the loss"
)
_SCALED = (
    "the gradient of the step is {:.3g} times that of its loss when on_before_optimizer_step is "
    "reached (clipped or scaled by hand before it): curvature/effective_edge ignores this "
    "factor"
)


class StepGeometry(StepMeasure):
    """The geometry of the step d = w(t+1) - w(t) in the loss f of the batch that made it.

    g and H are gradient and Hessian of f at w(t), with the random numbers of the step.

    | metric | value |
    |---|---|
    | `step/gradient_correlation` | g . d / abs(d); negative: the step goes downhill |
    | `step/gradient_cosine` | g . d / (abs(g) abs(d)) |
    | `step/directional_sharpness` | d'Hd / abs(d)^2 |
    | `step/predicted_loss_change` | g . d + d'Hd / 2 |
    | `step/loss_change`, `step/relative_loss_change` | f(w + d) - f(w), and this over abs(f(w)) |
    | `step/stability_ratio` | d'Hd / (-2 g . d); 1: the step no longer lowers the loss; negative: \
uphill, or along negative curvature |
    | `step/update_norm`, `step/relative_update` | abs(d), abs(d) / abs(w) |

    Args:
        curvature: "exact": d'Hd by one Hessian-vector product, about 3.3 gradients a step; "secant":
            (g(w + d) - g(w)) . d, the mean curvature along the step; it sees the kinks of ReLU, which
            the exact product does not. It takes 1 gradient, g(w + d): g(w) and f(w) are training's own.
            In the first reading and every 20th they are computed again, for 2 gradients; while they
            are others (other kernels, manual optimization, a step that is not repeatable) in all.
        every_n_steps: cadence of this measure alone; None: the monitor's.
        compare: other optimizers, whose shadow steps are compared at the same point: each is fed with
            the gradients that the run's optimizer gets, clipped if those are, and moves no weight.
            Names ("sgd", "momentum", "normalized_sgd", "sign", "adam", "lion", "clipped_sgd",
            "clipped_adam"), `Compared(...)` for another share of clipped coordinates, and
            {name: function} of a list of parameters for any optimizer of torch's. It adds
            `step/<name>/directional_sharpness`, `step/<name>/gradient_correlation` and
            `step/<name>/gradient_cosine`, always by exact products. A reading costs 2 gradients more
            for each (and 1.3, once, where `curvature` is "secant"). All steps are fed, also those that
            are not read: for each optimizer one update of its state, and its state in memory and in
            checkpoints. That time counts as reading, so give `every_n_steps` with it: a budget may
            have nothing left.

    Price: some 3.4 gradients of the step's batch where `curvature` is "exact", 1.1 where it is "secant"
    (docs/performance.md).

    Source: Pan & Li 2023, definitions of gradient correlation and directional sharpness.
    """

    name: str = "step_geometry"
    metrics: tuple[str, ...] = (
        "step/gradient_correlation",
        "step/gradient_cosine",
        "step/directional_sharpness",
        "step/predicted_loss_change",
        "step/loss_change",
        "step/relative_loss_change",
        "step/stability_ratio",
        "step/update_norm",
        "step/relative_update",
    )

    def __init__(
        self,
        *,
        curvature: Curvature = "exact",
        every_n_steps: int | None = None,
        compare: Compares | Iterable[Compares] = (),
    ) -> None:
        super().__init__(every_n_steps=every_n_steps)
        check_choice("curvature", curvature, get_args(Curvature))
        self.curvature = curvature
        self.compare = make_compared(compare)
        self.metrics = type(self).metrics + tuple(name for c in self.compare for name in c.metrics)

    def read(self, step: Step) -> Reading:
        """Read the geometry of `step`; nan with a note where it did not move the weights."""
        values = dict.fromkeys(self.metrics, math.nan)
        d = step.update
        layout = step.objective.layout
        dot = layout.dot
        length = math.sqrt(dot(d, d))
        values["step/update_norm"] = length
        values["step/relative_update"] = _ratio(length, step.weight_norm)
        if not math.isfinite(length):
            note = "the step left weights that are not finite"
            return Reading(values, (note,), broken=("step/update_norm",))
        if length == 0.0:
            return Reading(values, ("the step did not move the weights",))

        error, rough = 0.0, False
        point: Linearization | None = None
        if self.curvature == "exact":
            point = step.objective.linearize(known=_loss_and_gradient_of_training(step))
            # along the unit vector: d itself may be so short that products underflow
            unit = d / length
            curvature = dot(unit, point.product(unit))
            if point.coarser is not None:
                error = abs(dot(unit, point.coarser(unit)) - curvature)
                rough = error > COARSEST * abs(curvature)
            before, g = point.loss, point.gradient
            after = step.objective.loss(d)
        else:
            after, g_after = step.objective.gradient(d)
            before, g = _loss_and_gradient_at_start(step, after, g_after)
            curvature = _secant(layout, g, g_after, d)
        slope = dot(g, d)
        values["step/gradient_correlation"] = slope / length
        values["step/gradient_cosine"] = _ratio(slope / length, math.sqrt(dot(g, g)))
        values["step/directional_sharpness"] = curvature
        values["step/predicted_loss_change"] = slope + curvature * length**2 / 2
        values["step/loss_change"] = after - before
        values["step/relative_loss_change"] = _ratio(after - before, abs(before))
        values["step/stability_ratio"] = _ratio(curvature * length**2, -2 * slope)
        notes = self._compare(step, point, g, values)
        if not (math.isfinite(before) and math.isfinite(after)):
            note = f"the loss of the batch goes from {before} to {after}"
            return Reading(values, (note, *notes), broken=("step/loss_change",))
        if not math.isfinite(curvature):
            # the losses are finite: no matter for an alert
            note = "the Hessian-vector product along the step is not finite"
            return Reading(values, (note, *notes))
        if rough:
            doubt = _ROUGH.format(curvature, error)
            of_curvature = (*_OF_CURVATURE, *(c.metrics[0] for c in self.compare))
            return Reading(values, notes, doubtful=of_curvature, doubts=(doubt,))
        across, along = (0.0, 1.0) if step.gradient is None else layout.deviation(g, step.gradient)
        if across > _REPEATABLE:
            return Reading(values, notes, doubtful=self.metrics, doubts=(_OTHER_LOSS.format(across),))
        if abs(along - 1.0) > _REPEATABLE:
            return Reading(values, notes, doubts=(_SCALED.format(along),))
        return Reading(values, notes)

    def _compare(
        self, step: Step, point: Linearization | None, g: Tensor, values: dict[str, float]
    ) -> tuple[str, ...]:
        """Fill in the values of the shadow steps; notes say why one has none."""
        if not self.compare:
            return ()
        dot = step.objective.layout.dot
        missing = [c.name for c in self.compare if c.name not in step.compared]
        size = math.sqrt(dot(g, g))
        for name, d in step.compared.items():
            length = math.sqrt(dot(d, d))
            if not 0.0 < length < math.inf:
                missing.append(name)
                continue
            if point is None:
                try:
                    point = step.objective.linearize(known=_loss_and_gradient_of_training(step))
                except Exception as error:  # the secant of the step itself needs no second derivative
                    return (f"no shadow step has a directional sharpness: {error}",)
            unit = d / length
            correlation = dot(g, unit)
            of_each = (dot(unit, point.product(unit)), correlation, _ratio(correlation, size))
            values.update({f"step/{name}/{m}": v for m, v in zip(METRICS, of_each, strict=True)})
        return (f"there is no shadow step of {', '.join(missing)}",) if missing else ()


def _loss_and_gradient_of_training(step: Step) -> tuple[float, Tensor] | None:
    """Loss and gradient at w(t) as training had them."""
    if step.gradient is None or not math.isfinite(step.loss):
        return None
    return step.loss, step.gradient


def _loss_and_gradient_at_start(step: Step, after: float, g_after: Tensor) -> tuple[float, Tensor]:
    """f(w) and g(w): training's own while they are known to serve."""
    known, memory = _loss_and_gradient_of_training(step), step.memory
    if known is not None and memory.get("since_check", _CHECK_EVERY) < _CHECK_EVERY:
        memory["since_check"] += 1
        return known
    before, g = step.objective.gradient()
    memory["since_check"] = _CHECK_EVERY
    if known is not None:
        trained, made = known
        layout, d = step.objective.layout, step.update
        ours, theirs = (_secant(layout, start, g_after, d) for start in (g, made))
        slopes = layout.dot(g, d), layout.dot(made, d)
        changes = after - before, after - trained
        pairs = [(ours, theirs), slopes, changes]
        if all(abs(a - b) <= _SAME * abs(a) for a, b in pairs):
            memory["since_check"] = 1
    return before, g


def _secant(layout: Layout, g: Tensor, g_after: Tensor, d: Tensor) -> float:
    return layout.dot(g_after - g, d) / layout.dot(d, d)


def _ratio(a: float, b: float) -> float:
    return a / b if b else math.nan
