"""The loss at other weights: the real ones are moved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from curvwatch.objective.evaluation import (
    EvaluationInputs,
    Graph,
    load_inputs,
    refuse_detached,
    weighted_loss,
    without_graphs,
)
from curvwatch.objective.isolation.isolate import IsolatedModule
from curvwatch.objective.processes import local
from curvwatch.objective.samples import RecordedBatch

T = TypeVar("T")


class InPlaceEvaluation:
    """Real weights are moved, and gradients taken by `.backward()`: the only way that FSDP2 sees.

    Made by `evaluate_in_place`, which puts weights and gradients back.
    """

    is_averaged = True
    supports_graphs = False
    drew = False

    def __init__(self, inputs: EvaluationInputs, isolated_module: IsolatedModule) -> None:
        self._inputs = inputs
        self._isolated_module = isolated_module
        params = inputs.params
        self._base = [inputs.weights.get(id(p), local(p.detach())).clone() for p in params]

    @property
    def weights(self) -> Sequence[Tensor]:
        """The weights that are differentiated by."""
        return self._inputs.params

    def losses(self, displacement: Tensor | None) -> Iterator[Tensor]:
        """The loss of each sample, shape ()."""
        self._move(displacement)
        for sample in self._inputs.samples:
            yield self._loss(sample).detach()
            _reshard(self._inputs.module)

    def gradients(self, displacement: Tensor | None) -> Iterator[Tensor]:
        """Gradient and loss, joined in one vector of shape (size + 1,), of each sample."""
        self._move(displacement)
        for sample in self._inputs.samples:
            for weight in self._isolated_module.weights:
                weight.grad = None
            loss = self._loss(sample)
            loss.backward()
            _reshard(self._inputs.module)
            grads = [p.grad for p in self._inputs.params]
            yield self._inputs.layout.flatten(grads, and_scalar=loss)

    def map_losses(
        self,
        compute: Callable[[RecordedBatch, Tensor, list[Tensor]], T],
        samples: Iterable[RecordedBatch],
        *,
        loss_fn: Callable[[Any], Any] | None = None,
        displacement: Tensor | None = None,
    ) -> Iterator[T]:
        """What `compute` makes of each sample, its loss with its graph, and the weights of that."""
        self._move(displacement)
        for sample in samples:
            yield compute(sample, self._loss(sample, loss_fn), list(self._inputs.params))
            _reshard(self._inputs.module)

    def map_graphs(
        self, compute: Callable[[Graph], T], samples: Iterable[RecordedBatch] | None = None
    ) -> Iterator[T]:
        """Raises a CurvwatchError: gradients that `.backward()` made have no graphs."""
        raise without_graphs()

    def restore_weights(self, sample: RecordedBatch, leaves: list[Tensor]) -> None:
        """The weights are in their places."""

    def _loss(self, sample: RecordedBatch, loss_fn: Callable[[Any], Any] | None = None) -> Tensor:
        load_inputs(
            self._isolated_module,
            self._inputs,
            sample,
            {id(w): w for w in self._isolated_module.weights},
        )
        loss = weighted_loss(self._inputs, sample, loss_fn=loss_fn)
        refuse_detached(loss)
        return loss

    @torch.no_grad()
    def _move(self, displacement: Tensor | None) -> None:
        parts: list[Any] = [0.0] * len(self._base)
        if displacement is not None:
            parts = self._inputs.layout.split(displacement)
        for p, base, part in zip(self._inputs.params, self._base, parts, strict=True):
            local(p).copy_(base + part)


@contextmanager
def evaluate_in_place(
    inputs: EvaluationInputs, isolated_module: IsolatedModule
) -> Iterator[InPlaceEvaluation]:
    """Let the real weights be shifted; they and their gradients are put back bit for bit."""
    kept = [(w, local(w.detach()).clone(), w.grad) for w in isolated_module.weights]
    try:
        with torch.no_grad():
            for w in isolated_module.weights:
                if id(w) in inputs.weights:
                    local(w).copy_(inputs.weights[id(w)])
        yield InPlaceEvaluation(inputs, isolated_module)
    finally:
        with torch.no_grad():
            for w, value, gradient in kept:
                local(w).copy_(value)
                w.grad = gradient


def _reshard(module: nn.Module) -> None:
    """Free the gathered weights: after a forward pass alone FSDP2 keeps some, and would use them."""
    part: Any
    for part in module.modules():
        if callable(getattr(part, "reshard", None)) and callable(getattr(part, "unshard", None)):
            part.reshard()
