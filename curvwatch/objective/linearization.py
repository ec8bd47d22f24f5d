"""A loss at one point, with its derivatives there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from curvwatch.objective.flat_layout import Layout


@dataclass
class Linearization:
    """f at one point: its loss, gradient and Hessian-vector products.

    Attributes:
        layout: of the flat vectors.
        loss: f(w), a float.
        gradient: of shape (size,).
        product: from v of shape (size,) to Hv. Exact: one backward pass through the kept graph when
            the objective has one batch, else the graph is built again, batch by batch, so memory
            stays that of one batch. By differences: two gradients.
        quotient_stderr: from a unit v to the standard error of v'Hv, from its spread over the
            batches; nan where there is one batch. It costs one product.
        coarser: products by differences at twice the distance, whose deviation is an estimate of
            their error; None where products are exact.
    """

    layout: Layout
    loss: float
    gradient: Tensor
    product: Callable[[Tensor], Tensor] = field(repr=False)
    quotient_stderr: Callable[[Tensor], float] = field(repr=False)
    coarser: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
