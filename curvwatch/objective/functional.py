"""The loss at other weights: leaves stand in for the real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from curvwatch.errors import CurvwatchError
from curvwatch.objective.evaluation import EvaluationInputs, load_inputs, refuse_detached, weighted_loss
from curvwatch.objective.isolation.isolate import IsolatedModule
from curvwatch.objective.loss_checks import named_where_missing, refuse_once_differentiable
from curvwatch.objective.samples import DrawsOfWhole, RecordedBatch

T = TypeVar("T")


class FunctionalEvaluation:
    """Weights are replaced by leaves, so hooks on the real ones do not fire.

    Args:
        inputs: what is evaluated.
        isolated_module: of its module.

    Attributes:
        drew: whether a loss drew random numbers of torch.
    """

    is_averaged = False
    supports_graphs = True

    def __init__(self, inputs: EvaluationInputs, isolated_module: IsolatedModule) -> None:
        self.drew = False
        self._inputs = inputs
        self._isolated_module = isolated_module
        self._placed: list[Tensor] | None = None

    @property
    def weights(self) -> Sequence[Tensor]:
        """The weights that are differentiated by."""
        return self._inputs.params

    def losses(self, displacement: Tensor | None) -> Iterator[Tensor]:
        """The loss of each sample, shape ()."""
        leaves = self._leaves(displacement)
        for sample in self._inputs.samples:
            # with gradients on: training_step may take some itself (a penalty on them, a PINN)
            yield self._loss(sample, leaves).detach()

    def gradients(self, displacement: Tensor | None) -> Iterator[Tensor]:
        """Gradient and loss, joined in one vector of shape (size + 1,), of each sample."""
        leaves = self._leaves(displacement)
        for sample in self._inputs.samples:
            yield self._gradient(sample, leaves)

    def map_graphs(
        self, compute: Callable[[GradientGraph], T], samples: Iterable[RecordedBatch] | None = None
    ) -> Iterator[T]:
        """What `compute` makes of the graph of each sample, or of each of `samples`, at w.

        Only one graph is alive at a time, where `compute` keeps none.

        Raises:
            CurvwatchError: a function in a graph is marked `once_differentiable`.
        """
        leaves = self._leaves(None)
        for sample in self._inputs.samples if samples is None else samples:
            # no variable may hold the graph while the next one is made
            yield compute(self._graph(sample, leaves))

    def map_losses(
        self,
        compute: Callable[[RecordedBatch, Tensor, list[Tensor]], T],
        samples: Iterable[RecordedBatch],
        *,
        loss_fn: Callable[[Any], Any] | None = None,
        displacement: Tensor | None = None,
    ) -> Iterator[T]:
        """What `compute` makes of each sample, its loss with its graph, and the leaves of that.

        By another `loss_fn` where one is given; at displaced weights where there is a `displacement`.
        """
        leaves = self._leaves(displacement)
        for sample in samples:
            yield compute(sample, self._loss(sample, leaves, loss_fn), leaves)

    def restore_weights(self, sample: RecordedBatch, leaves: list[Tensor]) -> None:
        """Before a backward pass: a checkpointed block runs again in it, with these leaves."""
        if self._placed is not leaves:
            self._place(sample, leaves)

    def product(self, graph: GradientGraph, v: Tensor) -> Tensor:
        """The Hessian of `graph` times `v`, shape (size,)."""
        layout = self._inputs.layout
        self.restore_weights(graph.sample, graph.leaves)
        pairs = [
            (g, part)
            for g, part in zip(graph.gradient, layout.split(v), strict=True)
            if g is not None and g.requires_grad
        ]
        if not pairs:  # linear in every parameter
            return torch.zeros_like(v)
        outputs, vectors = zip(*pairs, strict=True)
        with named_where_missing():
            hv = torch.autograd.grad(
                outputs, graph.leaves, vectors, retain_graph=True, allow_unused=True
            )
        return layout.flatten(hv)

    def gradient_and_loss(self, graph: GradientGraph) -> Tensor:
        """Gradient and loss of `graph` in one vector of shape (size + 1,)."""
        return self._inputs.layout.flatten(graph.gradient, and_scalar=graph.loss)

    def _gradient(self, sample: RecordedBatch, leaves: list[Tensor]) -> Tensor:
        loss = self._loss(sample, leaves)
        return self._inputs.layout.flatten(_differentiated(loss, leaves), and_scalar=loss)

    def _graph(self, sample: RecordedBatch, leaves: list[Tensor]) -> GradientGraph:
        loss = self._loss(sample, leaves)
        refuse_once_differentiable(loss)
        gradient = _differentiated(loss, leaves, create_graph=True)
        return GradientGraph(self, sample, loss.detach(), gradient, leaves)

    def _leaves(self, displacement: Tensor | None) -> list[Tensor]:
        # copies: training_step may write to a weight
        base = [self._inputs.weights.get(id(p), p).detach() for p in self._inputs.params]
        if displacement is None:
            return [w.clone().requires_grad_() for w in base]
        parts = self._inputs.layout.split(displacement)
        return [(w + d).requires_grad_() for w, d in zip(base, parts, strict=True)]

    def _place(self, sample: RecordedBatch, leaves: list[Tensor]) -> None:
        inputs = self._inputs
        substitutes = {id(p): leaf for p, leaf in zip(inputs.params, leaves, strict=True)}
        for key, weight in inputs.weights.items():
            if key not in substitutes:  # a copy: training_step may write to it
                substitutes[key] = weight.clone()
        load_inputs(self._isolated_module, inputs, sample, substitutes)
        self._placed = leaves

    def _loss(
        self,
        sample: RecordedBatch,
        leaves: list[Tensor],
        loss_fn: Callable[[Any], Any] | None = None,
    ) -> Tensor:
        self._place(sample, leaves)
        before = torch.get_rng_state(), _cuda_state(leaves)
        with DrawsOfWhole(sample.rows) if sample.rows else nullcontext():
            loss = weighted_loss(self._inputs, sample, loss_fn=loss_fn)
        after = torch.get_rng_state(), _cuda_state(leaves)
        self.drew |= not all(map(torch.equal, before, after))
        return loss


@dataclass(frozen=True)
class GradientGraph:
    """The kept graph of one sample's gradient; made by `FunctionalEvaluation.map_graphs`.

    Attributes:
        loss: of shape ().
        gradient: of each leaf; None for one that takes no part.
    """

    _evaluation: FunctionalEvaluation
    sample: RecordedBatch
    loss: Tensor
    gradient: tuple[Tensor | None, ...]
    leaves: list[Tensor]

    def product(self, v: Tensor) -> Tensor:
        """Hessian-vector product, of shape (size,)."""
        return self._evaluation.product(self, v)

    def gradient_and_loss(self) -> Tensor:
        """Gradient and loss in one vector of shape (size + 1,)."""
        return self._evaluation.gradient_and_loss(self)


def _differentiated(
    loss: Tensor, leaves: Sequence[Tensor], *, create_graph: bool = False
) -> tuple[Tensor | None, ...]:
    refuse_detached(loss)
    with named_where_missing():
        grads = torch.autograd.grad(loss, leaves, create_graph=create_graph, allow_unused=True)
    if all(g is None for g in grads):
        raise CurvwatchError(
            f"the loss does not depend on any of the optimizer's {len(leaves)} parameters"
        )
    return grads


def _cuda_state(leaves: Sequence[Tensor]) -> Tensor:
    device = leaves[0].device
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.empty(0)
