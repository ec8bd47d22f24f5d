"""The batches of an objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from curvwatch.objective.isolation.containers import batch_size, slice_batch
from curvwatch.objective.isolation.isolate import ModuleState
from curvwatch.objective.isolation.random_state import RandomState

_aten = torch.ops.aten


class DrawsOfWhole(TorchDispatchMode):
    """Lets operations that draw random numbers draw those of the whole batch, and takes the part's.

    Dropout and noise are then the same in parts as in one. An operation draws for the whole where the
    first dimension is that of the part, or a multiple (heads of attention, tokens); what cannot be
    distinguished so differs, and is noticed where parts are compared with the whole.

    Args:
        rows: which examples the part has.
    """

    def __init__(self, rows: ChunkRows) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rows = rows

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func`; where it draws, for the whole batch."""
        kwargs = kwargs or {}
        draw = _DRAWS.get(func.overloadpacket)
        if draw is None:
            return func(*args, **kwargs)
        return draw(self._rows, func, args, kwargs)


def _in_place(rows: ChunkRows, func: Any, args: Any, kwargs: Any) -> Any:
    """`x.bernoulli_(p)` and its like: of dropout on the CPU, and of noise."""
    target = args[0]
    if not rows.fits(target.shape):
        return func(*args, **kwargs)
    whole = _whole_like(target, rows)
    func(whole, *args[1:], **kwargs)
    target.copy_(rows.cut(whole))
    return target


def _like(rows: ChunkRows, func: Any, args: Any, kwargs: Any) -> Any:
    """`randn_like(x)` and its like."""
    if not rows.fits(args[0].shape):
        return func(*args, **kwargs)
    return rows.cut(func(_whole_like(args[0], rows), *args[1:], **kwargs)).clone()


def _of_size(rows: ChunkRows, func: Any, args: Any, kwargs: Any) -> Any:
    """`randn(size)` and its like."""
    place = next((i for i, a in enumerate(args) if isinstance(a, (list, tuple))), None)
    if place is None or not rows.fits(args[place]):
        return func(*args, **kwargs)
    arguments = list(args)
    arguments[place] = rows.whole_shape(args[place])
    return rows.cut(func(*arguments, **kwargs)).clone()


def _fused_dropout(rows: ChunkRows, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    """`native_dropout(x, p, train)`, of CUDA: gives the mask, too."""
    # by position, from autograd
    x, p, train = args
    if not train or not 0.0 < p < 1.0 or not rows.fits(x.shape):
        return func(*args, **kwargs)
    _, mask = func(torch.zeros_like(_whole_like(x, rows)), p, train)
    mask = rows.cut(mask).clone()
    return x * mask * (1.0 / (1.0 - p)), mask


def _whole_like(part: Tensor, rows: ChunkRows) -> Tensor:
    # of the same order of dimensions in memory (channels last): numbers are drawn in that order
    order = sorted(range(part.ndim), key=lambda i: part.stride(i), reverse=True)
    shape = rows.whole_shape(part.shape)
    if order[0] != 0:
        return part.new_empty(shape)
    return torch.empty_permuted(shape, order, dtype=part.dtype, device=part.device)


_DRAWS = {
    _aten.bernoulli_: _in_place,
    _aten.normal_: _in_place,
    _aten.uniform_: _in_place,
    _aten.exponential_: _in_place,
    _aten.bernoulli: _like,
    _aten.rand_like: _like,
    _aten.randn_like: _like,
    _aten.rand: _of_size,
    _aten.randn: _of_size,
    _aten.native_dropout: _fused_dropout,
}


@dataclass(frozen=True)
class ChunkRows:
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
class RecordedBatch:
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
    memory: ModuleState | None = None
    rows: ChunkRows | None = None

    @property
    def size(self) -> int:
        """Number of examples."""
        return batch_size(self.batch)

    def part(self, start: int, stop: int, *, draws: bool) -> RecordedBatch:
        """The examples from `start` to `stop`, weighted by their share of a mean.

        Raises:
            CurvwatchError: the batch cannot be cut.
        """
        total = self.size
        return replace(
            self,
            batch=slice_batch(self.batch, start, stop),
            weight=self.weight * (stop - start) / total,
            rows=ChunkRows(start, stop, total) if draws else None,
        )

    def parts(self, count: int, *, draws: bool) -> list[RecordedBatch]:
        """`count` parts of equal size, but for rounding; their weights add up to this one's."""
        total = self.size
        edges = [i * total // count for i in range(count + 1)]
        return [self.part(a, b, draws=draws) for a, b in pairwise(edges)]


def count_of(samples: Sequence[RecordedBatch], size: int) -> list[int]:
    """Into how many parts each sample goes for parts of at most `size` examples."""
    return [max(1, math.ceil(s.size / size)) for s in samples]
