"""What a piece of code costs, in gradients, by counting what autograd is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Counts:
    """Passes over a batch; those over a part of it count as their share.

    Attributes:
        forwards: how often the loss was computed.
        gradients: backward passes from the loss.
        products: backward passes through a gradient; each vector of a batched one.
    """

    forwards: float = 0.0
    gradients: float = 0.0
    products: float = 0.0
    _largest: int = 0
    _share: float = 1.0

    def seen(self, targets: int) -> None:
        """A loss of so many targets is computed; the largest so far is that of a whole batch."""
        self._largest = max(self._largest, targets)
        self._share = targets / self._largest
        self.forwards += self._share

    def differentiated(self, vectors: int | None = None) -> None:
        """The last loss was differentiated, or its gradient with so many vectors."""
        if vectors is None:
            self.gradients += self._share
        else:
            self.products += vectors * self._share

    @property
    def cost(self) -> float:
        """In gradients: a product is 2, a forward pass without a backward pass 1/3."""
        return self.gradients + 2 * self.products + max(0, self.forwards - self.gradients) / 3


_counting: list[Counts] = []


class CountedLoss(nn.CrossEntropyLoss):
    """Cross-entropy that tells when it is computed."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean over all targets; `outputs` has those of all sequences in one dimension."""
        for counts in _counting:
            counts.seen(targets.numel())
        return super().forward(outputs, targets.flatten())


@contextmanager
def counting() -> Iterator[Counts]:
    """Count inside; the loss has to be a `CountedLoss` for forward passes to count."""
    counts = Counts()
    grad, backward = torch.autograd.grad, torch.autograd.backward

    def counted_grad(outputs: Any, inputs: Any, grad_outputs: Any = None, **options: Any) -> Any:
        first = outputs if isinstance(outputs, Tensor) else outputs[0]
        alone = isinstance(outputs, Tensor) or len(outputs) == 1
        if alone and first.dim() == 0:
            counts.differentiated()
        else:
            batched = options.get("is_grads_batched", False)
            vectors = grad_outputs if isinstance(grad_outputs, Tensor) else grad_outputs[0]
            counts.differentiated(len(vectors) if batched else 1)
        return grad(outputs, inputs, grad_outputs, **options)

    def counted_backward(*args: Any, **options: Any) -> None:
        counts.differentiated()
        backward(*args, **options)

    patched: Any = torch.autograd
    patched.grad, patched.backward = counted_grad, counted_backward
    _counting.append(counts)
    try:
        yield counts
    finally:
        _counting.remove(counts)
        patched.grad, patched.backward = grad, backward
