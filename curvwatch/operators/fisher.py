"""Fisher matrices of an objective at one point."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from curvwatch.objective import Opened
from curvwatch.objective.outputs.likelihoods import likelihoods_of
from curvwatch.objective.outputs.output_graph import OutputGraph, OutputGraphs
from curvwatch.operators.base import FunctionOperator
from curvwatch.operators.gauss_newton import through_outputs

FisherKind = Literal["mc", "empirical", "type1"]


def fisher(
    opened: Opened, graphs: OutputGraphs, kind: FisherKind, *, seed: int = 0
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
        made = list(over)
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
                made[place] = part
        return made

    return through_outputs(opened, graphs, middle)
