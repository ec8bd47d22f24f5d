"""The graph of a loss through the outputs of its network: J, its transpose, and the loss's Hessian."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from curvwatch.objective.evaluation import refuse_detached, without_graphs
from curvwatch.objective.flat_layout import summed
from curvwatch.objective.isolation.containers import tensors_in
from curvwatch.objective.loss_checks import named_where_missing, refuse_once_differentiable
from curvwatch.objective.objective import OpenObjective
from curvwatch.objective.outputs.loss_calls import (
    LossCallRecorder,
    Outputs,
    checked_outputs,
    find_outputs,
)
from curvwatch.objective.samples import RecordedBatch

T = TypeVar("T")


@dataclass(frozen=True)
class GivenOutputs:
    """What the user says the outputs are.

    Attributes:
        outputs_fn: from a batch to the outputs: a tensor, or several in a tuple, list or dict.
        loss_of_outputs: from these and the batch to the loss; without weights.
    """

    outputs_fn: Callable[[Any], Any]
    loss_of_outputs: Callable[[Any, Any], Any]


class OutputGraph:
    """The loss L(z(w)) of one batch, times the batch's weight, through the outputs z.

    J is the derivative of z by the weights; what lies over the outputs is a list with a tensor of the
    shape of each.

    Args:
        opened: the objective, whose derivatives are made by automatic differentiation.
        sample: the batch.
        loss: L, with its graph.
        leaves: the weights of that graph.
        outputs: z.

    Attributes:
        loss: L.
        outputs: z.
    """

    def __init__(
        self,
        opened: OpenObjective,
        sample: RecordedBatch,
        loss: Tensor,
        leaves: list[Tensor],
        outputs: Outputs,
    ) -> None:
        self.loss = loss
        self.outputs = outputs
        self._evaluation = opened.evaluation
        self._layout = opened.layout
        self._sample = sample
        self._leaves = leaves
        self._seeds: list[Tensor] = []
        self._transposed: tuple[Tensor | None, ...] | None = None
        self._slopes: tuple[Tensor, ...] | None = None

    def jvp(self, v: Tensor) -> list[Tensor]:
        """J v, from `v` of shape (size,)."""
        self._evaluation.restore_weights(self._sample, self._leaves)
        if self._transposed is None:
            # J' u is linear in u, and the derivative of v'J'u by u is J v
            self._seeds = [torch.zeros_like(z, requires_grad=True) for z in self.outputs.tensors]
            with named_where_missing():
                self._transposed = torch.autograd.grad(
                    self.outputs.tensors,
                    self._leaves,
                    self._seeds,
                    create_graph=True,
                    allow_unused=True,
                )
        parts = self._layout.split(v)
        return derivatives(self._transposed, self._seeds, parts)

    def vjp(self, over: Sequence[Tensor]) -> Tensor:
        """J' u, of shape (size,)."""
        self._evaluation.restore_weights(self._sample, self._leaves)
        parts = torch.autograd.grad(
            self.outputs.tensors, self._leaves, list(over), retain_graph=True, allow_unused=True
        )
        return self._layout.flatten(parts)

    def output_hessian_product(self, over: Sequence[Tensor]) -> list[Tensor]:
        """The Hessian of L by z, times u."""
        return derivatives(self.slopes, self.outputs.tensors, over)

    @property
    def slopes(self) -> tuple[Tensor, ...]:
        """The derivatives of L by z."""
        if self._slopes is None:
            with named_where_missing():
                self._slopes = torch.autograd.grad(self.loss, self.outputs.tensors, create_graph=True)
        return self._slopes


class OutputGraphs:
    """The graphs of all batches of an objective, each made when it is used.

    Where there is one batch its graph is kept. Batches are taken in the parts that Hessian-vector
    products go in, once one of these has shown that the parts add up.

    Args:
        opened: the objective.
        given: what the outputs are; None: found from the loss function.
        known: whether they are to be found among the known loss functions, also where they are given.

    Raises:
        CurvwatchError: derivatives are not made by automatic differentiation.
    """

    def __init__(
        self, opened: OpenObjective, given: GivenOutputs | None = None, *, known: bool = False
    ) -> None:
        if not opened.evaluation.supports_graphs:
            raise without_graphs()
        self._opened = opened
        self._evaluation = opened.evaluation
        self._given = given
        self._known = known or given is None
        self._kept: list[OutputGraph] = []

    def total(self, compute: Callable[[OutputGraph, int], Tensor]) -> Tensor:
        """The sum of `compute(graph, number of the batch)` over all batches of all processes."""
        opened = self._opened
        return opened.processes.mean(opened.processes.run_together(lambda: summed(self.each(compute))))

    def each(self, compute: Callable[[OutputGraph, int], T]) -> Iterator[T]:
        """What `compute` makes of the graph and the number of each batch of this process."""
        if self._kept:
            yield compute(self._kept[0], 0)
            return
        self._opened.counts.gradients += 1
        chunks = self._opened.chunks
        watch = LossCallRecorder()
        said: list[Any] = []

        done = 0

        def of_graph(sample: RecordedBatch, loss: Tensor, leaves: list[Tensor]) -> T:
            nonlocal done
            graph = self._graph(sample, loss, leaves, watch, said)
            watch.clear()
            said.clear()
            if len(chunks) == 1:
                self._kept.append(graph)
            done += 1
            return compute(graph, done - 1)

        yield from self._evaluation.map_losses(of_graph, chunks, loss_fn=self._loss_fn(watch, said))

    def _loss_fn(self, watch: LossCallRecorder, said: list[Any]) -> Callable[[Any], Any]:
        loss_fn = self._opened.loss_fn
        given = self._given
        if given is not None:

            def through(batch: Any) -> Any:
                outputs = given.outputs_fn(batch)
                said.append(outputs)
                return given.loss_of_outputs(outputs, batch)

            loss_fn = with_function(loss_fn, through)

        def watched(batch: Any) -> Any:
            with watch:
                return loss_fn(batch)

        return watched

    def _graph(
        self,
        sample: RecordedBatch,
        loss: Tensor,
        leaves: list[Tensor],
        watch: LossCallRecorder,
        said: list[Any],
    ) -> OutputGraph:
        refuse_detached(loss)
        refuse_once_differentiable(loss)
        names = dict(zip(map(id, leaves), self._opened.names, strict=True))
        if self._known:
            outputs = find_outputs(loss, watch.calls, names)
        else:
            tensors = [t for z in said for t in tensors_in(z) if t.requires_grad]
            outputs = Outputs(checked_outputs(loss, tensors, names, "loss_of_outputs"))
        return OutputGraph(self._opened, sample, loss, leaves, outputs)


def with_function(
    loss_fn: Callable[[Any], Any], function: Callable[[Any], Any]
) -> Callable[[Any], Any]:
    """`function`, of a batch as the user knows it, to be called where `loss_fn` would be.

    A loss function that is called with more than the user's batch, or in a context of its own, has a
    method `with_function`.
    """
    method = getattr(loss_fn, "with_function", None)
    return function if method is None else method(function)


def derivatives(
    results: Sequence[Tensor | None], by: Sequence[Tensor], over: Sequence[Tensor]
) -> list[Tensor]:
    """The derivatives of <results, over> by `by`; zeros where there are none."""
    pairs = [(r, u) for r, u in zip(results, over, strict=True) if r is not None and r.requires_grad]
    if not pairs:
        return [torch.zeros_like(b) for b in by]
    heads, vectors = zip(*pairs, strict=True)
    with named_where_missing():
        made = torch.autograd.grad(heads, by, vectors, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(b) if d is None else d for d, b in zip(made, by, strict=True)]
