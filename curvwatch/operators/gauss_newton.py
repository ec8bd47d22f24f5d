"""The Gauss-Newton and the Fisher matrix of an objective at one point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from curvwatch.objective import OpenObjective
from curvwatch.objective.outputs.likelihoods import likelihoods_of
from curvwatch.objective.outputs.output_graph import OutputGraph, OutputGraphs
from curvwatch.operators.base import FunctionOperator

FisherKind = Literal["mc", "empirical", "type1"]


def gauss_newton(opened: OpenObjective, graphs: OutputGraphs) -> FunctionOperator:
    """G = sum over batches of J' H_L J at the weights of `opened`, shape (size, size).

    H_L is the Hessian of the batch's loss by the outputs, with the weight of the batch in it, and J the
    derivative of the outputs (Schraudolph 2002). A product costs what one of the Hessian
    does: two backward passes through a kept graph.
    """
    return through_outputs(opened, graphs, lambda graph, _, over: graph.output_hessian_product(over))


def through_outputs(
    opened: OpenObjective,
    graphs: OutputGraphs,
    middle: Callable[[OutputGraph, int, list[Tensor]], list[Tensor]],
) -> FunctionOperator:
    """The sum over batches of J' B J, B u = `middle(graph, number of the batch, u)` symmetric."""

    def product(v: Tensor) -> Tensor:
        opened.counts.products += 1
        return graphs.total(lambda graph, i: graph.vjp(middle(graph, i, graph.jvp(v))))

    return FunctionOperator(
        product,
        size=opened.layout.total,
        dtype=opened.layout.dtype,
        device=opened.layout.device,
        length=opened.layout.size,
        inner=opened.layout.inner,
    )


def fisher(
    opened: OpenObjective, graphs: OutputGraphs, kind: FisherKind, *, seed: int = 0
) -> FunctionOperator:
    """F = sum over terms of c J' E[s s'] J at the weights of `opened`, shape (size, size).

    s are the derivatives of -log p(y | outputs) by the outputs, c the factor of a term in the loss (see
    `curvwatch.objective.outputs.likelihoods`), and J the derivative of the outputs.

    Args:
        opened: the objective.
        graphs: of its batches, with known loss functions.
        kind: which targets y: "type1": the mean over p, in closed form; "mc": one drawn from p; and
            "empirical": those of the batch.
        seed: of the targets that are drawn: the same in every product.
    """

    def middle(graph: OutputGraph, i: int, over: list[Tensor]) -> list[Tensor]:
        products = list(over)
        generator = torch.Generator().manual_seed(seed + i)
        for likelihood, places in likelihoods_of(graph):
            u = [over[place] for place in places]
            if kind == "type1":
                new = likelihood.expected(u)
            elif kind == "mc":
                new = likelihood.outer(likelihood.drawn(generator), u)
            else:
                slopes = [graph.slopes[place] for place in places]
                new = likelihood.outer(likelihood.observed(slopes), u)
            for place, part in zip(places, new, strict=True):
                products[place] = part
        return products

    return through_outputs(opened, graphs, middle)
