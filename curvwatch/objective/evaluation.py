"""What is evaluated, and what each way to evaluate it at other weights has in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from curvwatch.errors import CurvwatchError
from curvwatch.objective.flat_layout import Layout
from curvwatch.objective.isolation.containers import clone_batch
from curvwatch.objective.isolation.isolate import IsolatedModule
from curvwatch.objective.isolation.random_state import RandomState
from curvwatch.objective.loss_checks import scalar_loss
from curvwatch.objective.samples import RecordedBatch

T = TypeVar("T")


@dataclass
class Counts:
    """What a reading cost, in passes over all of its batches."""

    forwards: int = 0
    gradients: int = 0
    products: int = 0


@dataclass(frozen=True)
class EvaluationInputs:
    """What is evaluated.

    Attributes:
        module: isolated.
        loss_fn: from a sample's batch to a scalar loss.
        samples: the batches.
        params: the weights that are moved.
        layout: of a flat displacement of them.
        train: force train or eval mode; None keeps the module's own.
        weights: from `id(weight)` to the value that it has in this reading, where that is not the
            present one.
        random: the random state of samples that have none of their own.
    """

    module: nn.Module
    loss_fn: Callable[[Any], Any]
    samples: Sequence[RecordedBatch]
    params: Sequence[Tensor]
    layout: Layout
    train: bool | None
    weights: Mapping[int, Tensor]
    random: RandomState


class Evaluation(Protocol):
    """The losses and gradients of the samples, each times its weight, at displaced weights.

    Attributes:
        is_averaged: whether gradients are averaged over processes already.
        supports_graphs: whether gradients have graphs that can be differentiated again (`map_graphs`);
            those of sharded weights have none.
        drew: whether a loss drew random numbers of torch.
        weights: that are differentiated by.
    """

    is_averaged: bool
    supports_graphs: bool
    drew: bool

    @property
    def weights(self) -> Sequence[Tensor]:
        """The weights that are differentiated by."""

    def losses(self, displacement: Tensor | None) -> Iterator[Tensor]:
        """The loss of each sample, shape ()."""

    def gradients(self, displacement: Tensor | None) -> Iterator[Tensor]:
        """Gradient and loss, joined in one vector of shape (size + 1,), of each sample."""

    def map_losses(
        self,
        compute: Callable[[RecordedBatch, Tensor, list[Tensor]], T],
        samples: Iterable[RecordedBatch],
        *,
        loss_fn: Callable[[Any], Any] | None = None,
        displacement: Tensor | None = None,
    ) -> Iterator[T]:
        """What `compute` makes of each sample, its loss with its graph, and the weights of that."""

    def map_graphs(
        self, compute: Callable[[Graph], T], samples: Iterable[RecordedBatch] | None = None
    ) -> Iterator[T]:
        """What `compute` makes of the graph of each sample's gradient, or of each of `samples`, at w.

        Raises:
            CurvwatchError: there are no graphs (`supports_graphs`).
        """

    def restore_weights(self, sample: RecordedBatch, leaves: list[Tensor]) -> None:
        """Before a backward pass: a checkpointed block runs again in it, with these leaves."""


class Graph(Protocol):
    """The kept graph of one sample's gradient.

    Attributes:
        gradient: of each leaf; None for one that takes no part.
    """

    @property
    def gradient(self) -> tuple[Tensor | None, ...]:
        """Of each leaf; None for one that takes no part."""

    def product(self, v: Tensor) -> Tensor:
        """Hessian-vector product, of shape (size,)."""

    def gradient_and_loss(self) -> Tensor:
        """Gradient and loss in one vector of shape (size + 1,)."""


def without_graphs() -> CurvwatchError:
    """The error of what needs graphs, where weights are moved in place."""
    return CurvwatchError(
        "derivatives of outputs and of single batches need all weights on each process, and these "
        "are spread over processes (FSDP2, tensor parallelism)"
    )


def load_inputs(
    isolated_module: IsolatedModule,
    inputs: EvaluationInputs,
    sample: RecordedBatch,
    substitutes: Mapping[int, Tensor],
) -> None:
    """Put weights, and what else the loss of `sample` depends on, into the isolated module."""
    isolated_module.load(
        substitutes,
        memory=sample.memory,
        train=inputs.train,
        random=sample.random or inputs.random,
    )


def weighted_loss(
    inputs: EvaluationInputs, sample: RecordedBatch, *, loss_fn: Callable[[Any], Any] | None = None
) -> Tensor:
    """The loss of `sample` times its weight, shape (); by another `loss_fn` where one is given."""
    with torch.inference_mode(False), torch.enable_grad():
        loss = scalar_loss((loss_fn or inputs.loss_fn)(clone_batch(sample.batch)))
    return loss.to(device=inputs.layout.device, dtype=inputs.layout.dtype) * sample.weight


def refuse_detached(loss: Tensor) -> None:
    """Raise a CurvwatchError where `loss` has no gradient."""
    if not loss.requires_grad:
        raise CurvwatchError(
            "the loss does not depend on any parameter that is trained: it was detached, "
            "computed under torch.no_grad, or uses other parameters than the optimizer's"
        )
