"""The Gauss-Newton matrix of an objective at one point."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from curvwatch.objective import Opened
from curvwatch.objective.outputs.output_graph import OutputGraph, OutputGraphs
from curvwatch.operators.base import FunctionOperator


def gauss_newton(opened: Opened, graphs: OutputGraphs) -> FunctionOperator:
    """G = sum over batches of J' H_L J at the weights of `opened`, shape (size, size).

    H_L is the Hessian of the batch's loss by the outputs, with the weight of the batch in it, and J the
    derivative of the outputs (Schraudolph 2002). A product costs what one of the Hessian
    does: two backward passes through a kept graph.
    """
    return through_outputs(opened, graphs, lambda graph, _, over: graph.curved(over))


def through_outputs(
    opened: Opened,
    graphs: OutputGraphs,
    middle: Callable[[OutputGraph, int, list[Tensor]], list[Tensor]],
) -> FunctionOperator:
    """The sum over batches of J' B J, B u = `middle(graph, number of the batch, u)` symmetric."""

    def product(v: Tensor) -> Tensor:
        opened.counts.products += 1
        return graphs.total(lambda graph, i: graph.pulled(middle(graph, i, graph.pushed(v))))

    return FunctionOperator(
        product,
        size=opened.layout.total,
        dtype=opened.layout.dtype,
        device=opened.layout.device,
        length=opened.layout.size,
        inner=opened.layout.inner,
    )
