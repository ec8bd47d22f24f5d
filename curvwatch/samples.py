"""The batches of an objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from curvwatch.isolation import Memory
from curvwatch.randomness import RandomState


@dataclass(frozen=True)
class Sample:
    """One batch of an objective and what else its loss depends on.

    Attributes:
        batch: what the loss function is called with; cloned before each call.
        weight: factor of this batch's loss in the sum.
        random: random state the loss is computed from; None: the one at the opening.
        memory: buffers and attributes the loss is computed from; None: those at the opening.
    """

    batch: Any
    weight: float = 1.0
    random: RandomState | None = None
    memory: Memory | None = None
