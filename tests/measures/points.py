"""Landscapes and steps of the small cases, without a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from curvwatch import Objective, stability_law
from curvwatch.measures import Landscape, Step
from tests.support.cases import Case


def objective_of(case: Case, model: nn.Module, batches: list[Any], **options: Any) -> Objective:
    """The mean loss over `batches`."""
    return Objective.of_batches(model, lambda b: case.loss(model(b[0]), b[1]), batches, **options)


@contextmanager
def landscape(
    objective: Objective,
    *,
    memory: dict[str, Any] | None = None,
    seed: int = 0,
    update: Any = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Iterator[Landscape]:
    """What a measure of the landscape is given, with plain gradient descent by default."""
    optimizer = optimizer or torch.optim.SGD(objective.params, lr=0.1)
    with objective.open() as opened:
        yield Landscape(
            opened,
            [0.1] * len(objective.params),
            stability_law(optimizer),
            {} if memory is None else memory,
            torch.Generator().manual_seed(seed),
            update,
        )


@contextmanager
def step(objective: Objective, update: torch.Tensor, **options: Any) -> Iterator[Step]:
    """What a measure of the step `update` is given."""
    with objective.open() as opened:
        yield Step(opened, update, float(opened.weights.norm()), **options)
