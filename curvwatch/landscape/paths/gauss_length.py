"""How much a curve turns: the length of its Gauss map."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from curvwatch.errors import CurvwatchError
from curvwatch.landscape.batch_norm import Recalibrated
from curvwatch.landscape.module_loss import mute_module
from curvwatch.landscape.module_surface import ModuleSurface
from curvwatch.landscape.surface import Surface
from curvwatch.objective import OpenObjective
from curvwatch.objective.isolation.containers import tensors_in
from curvwatch.objective.outputs.loss_calls import ADVICE
from curvwatch.objective.outputs.output_graph import OutputGraphs
from curvwatch.training.run import StepInput


def outputs_at(surface: Surface, w: Tensor, outputs: Callable[..., Any] | None) -> Tensor:
    """The outputs at weights `w` for all examples, shape (examples, outputs of each).

    Args:
        surface: not open.
        w: shape (size,).
        outputs: `outputs(module, batch)` -> the outputs of a batch, or several in a list, tuple or
            dict; of a surface that is no module's, `outputs(w)`. None: what a loss function of torch
            gets (see `curvwatch.objective.outputs.loss_calls`).

    Raises:
        CurvwatchError: they are not available, or their numbers of examples differ.
    """
    if not isinstance(surface, ModuleSurface):
        if outputs is None:
            raise CurvwatchError(
                f"the outputs of a {type(surface).__name__} cannot be found: outputs=lambda w: ... "
                "can give them"
            )
        return _rows(outputs(w))
    layout = surface.objective.layout
    weights = dict(zip(map(id, surface.objective.params), layout.split(w), strict=True))
    with surface.objective.open(weights) as opened:
        if isinstance(surface.objective.loss_fn, Recalibrated):
            surface.objective.loss_fn.estimate(opened.loss)
        made = _found(opened) if outputs is None else _given(opened, surface, outputs)
    if len({z.shape[1] for z in made}) > 1:
        raise CurvwatchError("batches have outputs of several sizes, which do not form one curve")
    return torch.cat(made)


def _found(opened: OpenObjective) -> list[Tensor]:
    try:
        return list(OutputGraphs(opened).each(lambda graph, _: _rows(list(graph.outputs.tensors))))
    except CurvwatchError as error:
        # measures have other words for it
        raise CurvwatchError(
            str(error).replace(ADVICE, "outputs=lambda module, batch: ... can give them")
        ) from error


def _given(opened: OpenObjective, surface: ModuleSurface, outputs: Callable[..., Any]) -> list[Tensor]:
    module = surface.module
    made: list[Tensor] = []

    def instead(item: Any) -> Tensor:
        batch = item.data if isinstance(item, StepInput) else item
        with mute_module(module), torch.no_grad():
            made.append(_rows(outputs(module, batch)))
        return made[-1].sum()

    loss_fn: Callable[[Any], Any] = instead
    if isinstance(surface.objective.loss_fn, Recalibrated):
        loss_fn = copy.copy(surface.objective.loss_fn)  # with the statistics that it has
        loss_fn.loss_fn = instead
    list(opened.evaluation.map_losses(lambda *_: None, opened.samples, loss_fn=loss_fn))
    return made


def _rows(outputs: Any) -> Tensor:
    """What a batch has, a row for each of its examples."""
    tensors = [z.detach() for z in tensors_in(outputs)]
    if not tensors or len({z.shape[:1] for z in tensors}) > 1:
        raise CurvwatchError(
            f"outputs of the shapes {[tuple(z.shape) for z in tensors]}: tensors with as many rows as "
            "there are examples are needed"
        )
    return torch.cat([z.reshape(len(z) if z.ndim else 1, -1) for z in tensors], dim=1)


@dataclass(frozen=True)
class GaussLength:
    """Of a curve through the outputs of a network, in radians.

    Attributes:
        joint: of the one curve of all outputs of all examples, stacked.
        joint_error: of `joint`: what rounding adds at most, and how much half as many points miss.
        each: the mean over examples of the length of each one's own curve.
        each_error: likewise, of the mean.
    """

    joint: float
    joint_error: float
    each: float
    each_error: float


def gauss_length(points: Iterable[Tensor], *, eps: float) -> GaussLength:
    """Sums of the angles between successive steps of a curve.

    The Gauss map takes a curve to its unit tangents; its length is the curve's total curvature. For a
    polygon that is the sum of the angles at its corners, which is at most that of the curve it is
    inscribed in, and goes to it (Milnor 1950). Points that coincide with the one before are left out.

    Args:
        points: of the curve, in order, each of shape (examples, outputs).
        eps: of the precision that they were computed in.
    """
    fine, coarse = _Turning(eps), _Turning(eps)
    for i, z in enumerate(points):
        z = z.double()
        fine.feed(z)
        if i % 2 == 0:
            coarse.feed(z)
    joint, each = (float(angles.mean()) for angles in fine.angles)
    joint_off, each_off = (
        float(noise.mean()) + abs(float(a.mean()) - float(c.mean()))
        for noise, a, c in zip(fine.noise, fine.angles, coarse.angles, strict=True)
    )
    return GaussLength(joint, joint_off, each, each_off)


class _Turning:
    """The angles so far, of the joint curve and of each example's; and what rounding may have added."""

    def __init__(self, eps: float) -> None:
        self.angles = [torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)]
        self.noise = [torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)]
        self._eps = eps
        self._last: list[Tensor] = []
        self._directions: list[Tensor] = []
        self._doubts: list[Tensor] = []

    def feed(self, z: Tensor) -> None:
        """The next point, shape (examples, outputs)."""
        curves = [z.reshape(1, -1), z.reshape(len(z), -1)]
        if not self._last:
            self._last = curves
            self._directions = [torch.zeros_like(c) for c in curves]
            self._doubts = [torch.zeros(len(c), dtype=c.dtype, device=c.device) for c in curves]
            self.angles = [torch.zeros_like(doubt) for doubt in self._doubts]
            self.noise = [torch.zeros_like(doubt) for doubt in self._doubts]
            return
        for i, (now, before) in enumerate(zip(curves, self._last, strict=True)):
            step = now - before
            length = step.norm(dim=1)
            moves = length > 0
            direction = step / torch.where(moves, length, 1.0)[:, None]
            # how far rounding may turn this step, but no further than round
            doubt = (self._eps * (now.norm(dim=1) + before.norm(dim=1)) / length).clamp(max=math.pi)
            known = moves & (self._directions[i].norm(dim=1) > 0)
            difference = (direction - self._directions[i]).norm(dim=1)
            total = (direction + self._directions[i]).norm(dim=1)
            # exact for small angles, too, which the arc cosine is not
            angle = 2 * torch.atan2(difference, total)
            self.angles[i] += torch.where(known, angle, 0.0)
            self.noise[i] += torch.where(known, doubt + self._doubts[i], 0.0)
            self._directions[i] = torch.where(moves[:, None], direction, self._directions[i])
            self._doubts[i] = torch.where(moves, doubt, self._doubts[i])
        self._last = curves
