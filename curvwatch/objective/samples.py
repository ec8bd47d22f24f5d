"""The batches of an objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from torch import Tensor

from curvwatch.objective.isolation.containers import batch_size, rows_of
from curvwatch.objective.isolation.isolate import Memory
from curvwatch.objective.isolation.random_state import RandomState


@dataclass(frozen=True)
class Rows:
    """Which examples of a whole batch a part of it has: those from `start` to `stop` of `total`."""

    start: int
    stop: int
    total: int

    @property
    def size(self) -> int:
        """How many examples the part has."""
        return self.stop - self.start

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of `shape` has the same number of rows for each example of the part."""
        return len(shape) > 0 and shape[0] > 0 and shape[0] % self.size == 0

    def whole_shape(self, shape: Sequence[int]) -> list[int]:
        """Of the tensor for the whole batch."""
        return [shape[0] // self.size * self.total, *shape[1:]]

    def cut(self, whole: Tensor) -> Tensor:
        """The part's rows of a tensor for the whole batch."""
        each = whole.shape[0] // self.total
        return whole[self.start * each : self.stop * each]


@dataclass(frozen=True)
class Sample:
    """One batch of an objective and what else its loss depends on.

    Attributes:
        batch: what the loss function is called with; cloned before each call.
        weight: factor of this batch's loss in the sum.
        random: random state the loss is computed from; None: the one at the opening.
        memory: buffers and attributes the loss is computed from; None: those at the opening.
        rows: where it is a part of a batch whose loss draws random numbers: which one.
    """

    batch: Any
    weight: float = 1.0
    random: RandomState | None = None
    memory: Memory | None = None
    rows: Rows | None = None

    @property
    def size(self) -> int:
        """Number of examples."""
        return batch_size(self.batch)

    def part(self, start: int, stop: int, *, draws: bool) -> Sample:
        """The examples from `start` to `stop`, weighted by their share of a mean.

        Raises:
            CurvwatchError: the batch cannot be cut.
        """
        total = self.size
        return replace(
            self,
            batch=rows_of(self.batch, start, stop),
            weight=self.weight * (stop - start) / total,
            rows=Rows(start, stop, total) if draws else None,
        )

    def parts(self, count: int, *, draws: bool) -> list[Sample]:
        """`count` parts of equal size, but for rounding; their weights add up to this one's."""
        total = self.size
        edges = [i * total // count for i in range(count + 1)]
        return [self.part(a, b, draws=draws) for a, b in pairwise(edges)]


def count_of(samples: Sequence[Sample], size: int) -> list[int]:
    """Into how many parts each sample goes for parts of at most `size` examples."""
    return [max(1, math.ceil(s.size / size)) for s in samples]
