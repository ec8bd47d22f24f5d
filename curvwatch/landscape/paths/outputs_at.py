"""The outputs of a network at given weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from curvwatch.errors import CurvwatchError
from curvwatch.landscape.batch_norm import Recalibrated
from curvwatch.landscape.module_loss import silent
from curvwatch.landscape.module_surface import ModuleSurface
from curvwatch.landscape.surface import Surface
from curvwatch.objective import Opened
from curvwatch.objective.functional import Aliased
from curvwatch.objective.isolation.containers import tensors_in
from curvwatch.objective.outputs.loss_calls import ADVICE
from curvwatch.objective.outputs.output_graph import OutputGraphs
from curvwatch.training.run import TrainingBatch


def outputs_at(surface: Surface, w: Tensor, outputs: Callable[..., Any] | None) -> Tensor:
    """The outputs at weights `w` for all examples, shape (examples, outputs of each).

    Args:
        surface: not open.
        w: shape (size,).
        outputs: `outputs(module, batch)` -> the outputs of a batch, or several in a list, tuple or
            dict; of a surface that is no module's, `outputs(w)`. None: what a loss function of torch
            gets (see `curvwatch.objective.outputs.loss_calls`).

    Raises:
        CurvwatchError: they cannot be had, or their numbers of examples differ.
    """
    if not isinstance(surface, ModuleSurface):
        if outputs is None:
            raise CurvwatchError(
                f"a {type(surface).__name__} has no outputs that could be found: outputs=lambda w: ... "
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
        raise CurvwatchError("batches have outputs of several sizes, which make no one curve")
    return torch.cat(made)


def _found(opened: Opened) -> list[Tensor]:
    try:
        return list(OutputGraphs(opened).each(lambda graph, _: _rows(list(graph.outputs.tensors))))
    except CurvwatchError as error:
        # measures have other words for it
        raise CurvwatchError(
            str(error).replace(ADVICE, "outputs=lambda module, batch: ... can give them")
        ) from error


def _given(opened: Opened, surface: ModuleSurface, outputs: Callable[..., Any]) -> list[Tensor]:
    module = surface.module
    made: list[Tensor] = []

    def instead(item: Any) -> Tensor:
        batch = item.batch if isinstance(item, TrainingBatch) else item
        with silent(module), torch.no_grad():
            made.append(_rows(outputs(module, batch)))
        return made[-1].sum()

    assert isinstance(opened.evaluation, Aliased)
    loss_fn: Callable[[Any], Any] = instead
    if isinstance(surface.objective.loss_fn, Recalibrated):
        loss_fn = copy.copy(surface.objective.loss_fn)  # with the statistics that it has
        loss_fn.loss_fn = instead
    list(opened.evaluation.of_losses(lambda *_: None, opened.samples, loss_fn=loss_fn))
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
