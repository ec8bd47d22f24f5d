"""Norms and moments of the gradient of a step, of the whole and of each layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from curvwatch.measures.base import Reading, Step, StepMeasure
from curvwatch.objective.flat_layout import Layout, local_dot
from curvwatch.objective.layers import By, check_by, layers_of, parameter_names
from curvwatch.objective.processes import summed

_OF_EACH = ("gradient_norm", "clipped_gradient_norm", "gradient_near_zero", "update_to_weight")


class GradientStats(StepMeasure):
    """The gradient g of a step before it is clipped, and as the optimizer got it, g'.

    Both are unscaled where a GradScaler scales them. Nothing is evaluated: they are training's own.

    | metric | value |
    |---|---|
    | `step/gradient_norm` | abs(g); missing where a plain loop clips by itself, and with LBFGS |
    | `step/clipped_gradient_norm` | abs(g'): the same where nothing is clipped |
    | `step/gradient_mean`, `step/gradient_std` | mean and standard deviation of the entries of g' |
    | `step/gradient_near_zero` | share of g' below `near_zero` x its root mean square |
    | `step/update_to_weight` | abs(d) / abs(w), d the step, w the weights before it |
    | `step/layer/<name>/...` | `gradient_norm`, `clipped_gradient_norm`, `gradient_near_zero` and \
`update_to_weight` of each layer; near zero by the root mean square of all layers |

    Price: no gradient and no product; a pass over gradients and weights, and one transfer to the host.

    Source: what LightningModules and lightning.pytorch.utilities.grad_norm log, gathered in one pass.

    Args:
        by: "module": the weights of one submodule are a layer; "parameter": each is its own; or a
            function from a parameter's name to the name of its layer, None to leave it out.
        near_zero: how small an entry counts as zero, relative to the root mean square.
        every_n_steps: cadence of this measure alone; None: the monitor's.
    """

    name: str = "gradient_stats"
    looks_at_loss: ClassVar[bool] = False
    needs_used: ClassVar[bool] = True
    metrics: tuple[str, ...] = (
        "step/gradient_norm",
        "step/clipped_gradient_norm",
        "step/gradient_near_zero",
        "step/update_to_weight",
        "step/gradient_mean",
        "step/gradient_std",
    )

    def __init__(
        self, *, by: By = "module", near_zero: float = 1e-3, every_n_steps: int | None = None
    ) -> None:
        super().__init__(every_n_steps=every_n_steps)
        check_by(by)
        if isinstance(near_zero, str) or not 0 <= near_zero < math.inf:
            raise ValueError(f"near_zero={near_zero!r}: a share of the root mean square is needed")
        self.by = by
        self.near_zero = near_zero

    def metrics_of(self, module: nn.Module, params: Sequence[Tensor]) -> tuple[str, ...]:
        """Those of the whole, and those of each layer."""
        layers = layers_of(parameter_names(module, params), self.by)
        return self.metrics + tuple(f"step/layer/{name}/{what}" for name in layers for what in _OF_EACH)

    def read(self, step: Step) -> Reading:
        """Read gradients as training had them; nan with a note for one that is not known."""
        layout = step.objective.layout
        sums = _sums(layout, step, near_zero=self.near_zero)  # (parameters, 7), on the host
        values = {"step/" + k: v for k, v in _values(sums).items()}
        total = sums.sum(dim=0)
        count = float(total[6])
        mean = float(total[5]) / count
        values["step/gradient_mean"] = mean
        values["step/gradient_std"] = math.sqrt(max(float(total[1]) / count - mean**2, 0.0))
        for name, indices in layers_of(step.objective.names, self.by).items():
            of_layer = _values(sums[indices])
            values.update({f"step/layer/{name}/{what}": value for what, value in of_layer.items()})
        notes = []
        if step.gradient is None:
            notes.append("the gradient before clipping is not known")
        if step.used is None:
            notes.append("the gradient that the step was made with is not known")
        elif not math.isfinite(float(total[1])):
            return Reading(values, tuple(notes), broken=("step/clipped_gradient_norm",))
        return Reading(values, tuple(notes))


def _values(sums: Tensor) -> dict[str, float]:
    """Of some of the parameters, by `_OF_EACH`."""
    before, used, near_zero, update, weight, _, count = sums.sum(dim=0).tolist()
    return {
        "gradient_norm": math.sqrt(before),
        "clipped_gradient_norm": math.sqrt(used),
        "gradient_near_zero": near_zero / count if count else math.nan,
        "update_to_weight": math.sqrt(update / weight) if weight else math.nan,
    }


def _sums(layout: Layout, step: Step, *, near_zero: float) -> Tensor:
    """Of each parameter: g^2, g'^2, entries of g' near zero, d^2, w^2, g', entries; float64.

    In one transfer; of weights that are spread over processes, of all parts together.
    """
    unknown = torch.full((len(layout.sizes),), math.nan, dtype=torch.float64, device=layout.device)
    sizes = torch.tensor(layout.sizes, dtype=torch.float64, device=layout.device)
    used = step.used
    columns = [
        unknown if v is None else torch.stack([local_dot(part, part) for part in v.split(layout.sizes)])
        for v in (step.gradient, used, step.update, step.objective.weights)
    ]
    columns.append(
        unknown
        if used is None
        else torch.stack([part.sum(dtype=torch.float64) for part in used.split(layout.sizes)])
    )
    columns.append(sizes)
    sums = _over_processes(layout, torch.stack(columns, dim=1))
    small = unknown
    if used is not None:
        bound = near_zero * (sums[:, 1].sum() / sums[:, 5].sum()).sqrt()
        parts = [(part.abs() <= bound.to(part.dtype)).sum() for part in used.split(layout.sizes)]
        small = _over_processes(layout, torch.stack(parts).double()[:, None])[:, 0]
    return torch.cat([sums[:, :2], small[:, None], sums[:, 2:]], dim=1).cpu()


def _over_processes(layout: Layout, sums: Tensor) -> Tensor:
    """`sums` (parameters, n) of all processes together."""
    if layout.holders is None:
        return sums
    return summed(sums / sums.new_tensor(layout.holders)[:, None])
