"""Parameters as one flat vector and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from curvwatch.errors import CurvwatchError
from curvwatch.objective.processes import holders, is_sharded, local
from curvwatch.objective.processes import summed as summed_over_processes

# the float64 copies of an inner product: on a CPU they stay in the cache, and are never new pages
# (8 to 25 times faster than at a million), on a GPU a kernel has enough to do
_AT_A_TIME, _AT_A_TIME_ON_CPU = 1 << 24, 1 << 16


@dataclass(frozen=True)
class Layout:
    """Where each parameter lies in a flat vector of length `size`.

    The flat dtype is the widest of the parameters', and float32 at least: inner products of
    half-precision vectors are worth little. Of weights that are spread over processes a flat vector
    holds the part of this process, and inner products sum over all.

    Attributes:
        holders: how many processes hold the same part, of each parameter; None: all are whole.
    """

    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]
    devices: tuple[torch.device, ...]
    dtype: torch.dtype
    device: torch.device
    holders: tuple[int, ...] | None = None

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Layout:
        """Lay out `tensors` in their order.

        Raises:
            CurvwatchError: there is no tensor, one is complex or sparse, or some are spread over
                processes and others are not.
        """
        if not tensors:
            raise CurvwatchError(
                "there is no trainable parameter: curvature needs at least one with "
                "requires_grad=True in the optimizer's param_groups"
            )
        for i, t in enumerate(tensors):
            if not t.is_floating_point() or t.layout is not torch.strided:
                raise CurvwatchError(
                    f"parameter {i} of shape {tuple(t.shape)} is {t.dtype}, {t.layout}: "
                    "only real, dense floating-point parameters are measured"
                )
        dtype = torch.float32
        for t in tensors:
            dtype = torch.promote_types(dtype, t.dtype)
        spread = [is_sharded(t) for t in tensors]
        if any(spread) and not all(spread):
            raise CurvwatchError(
                f"parameter {spread.index(False)} of shape {tuple(tensors[spread.index(False)].shape)} "
                "is whole on each process and others are sharded: apply fully_shard to the module "
                "that holds it, too"
            )
        return cls(
            holders=tuple(map(holders, tensors)) if any(spread) else None,
            shapes=tuple(local(t).shape for t in tensors),
            dtypes=tuple(t.dtype for t in tensors),
            devices=tuple(t.device for t in tensors),
            dtype=dtype,
            device=tensors[0].device,
        )

    @property
    def sizes(self) -> list[int]:
        """Number of entries of each parameter."""
        return [shape.numel() for shape in self.shapes]

    @property
    def size(self) -> int:
        """Length of the flat vector, on this process."""
        return sum(self.sizes)

    @property
    def sharded(self) -> bool:
        """Whether the weights are spread over processes."""
        return self.holders is not None

    @cached_property
    def total(self) -> int:
        """Number of weights, on all processes together."""
        if self.holders is None:
            return self.size
        parts = sum(n / h for n, h in zip(self.sizes, self.holders, strict=True))
        count = torch.tensor(parts, dtype=torch.float32, device=self.device)
        return round(float(summed_over_processes(count)))

    def inner(self, rows: Tensor, v: Tensor) -> Tensor:
        """Inner products of `rows` (k, size) with `v` (size,), in float64: shape (k,)."""
        if self.holders is None:
            return torch.mv(rows, v).double()
        return summed_over_processes(
            torch.mv(rows, v if self._shares is None else v * self._shares).double()
        )

    def dot(self, a: Tensor, b: Tensor) -> float:
        """Inner product of two flat vectors, summed in float64."""
        if self.holders is None:
            return float(local_dot(a, b))
        return float(
            summed_over_processes(local_dot(a, b if self._shares is None else b * self._shares))
        )

    def deviation(self, g: Tensor, made: Tensor) -> tuple[float, float]:
        """How far `made` is off the line of `g`, relative to its length, and its part along `g`.

        Where one of them is zero or not finite there is nothing to compare: (0, 1).
        """
        if g is made:
            return 0.0, 1.0
        gg, mm, gm = self.dot(g, g), self.dot(made, made), self.dot(g, made)
        if not (0.0 < gg < math.inf and 0.0 < mm < math.inf):
            return 0.0, 1.0
        return math.sqrt(max(0.0, 1.0 - gm**2 / (gg * mm))), gm / gg

    @cached_property
    def _shares(self) -> Tensor | None:
        """What each entry counts in a sum over processes, None where it is 1 everywhere."""
        if self.holders is None or set(self.holders) == {1}:
            return None
        return torch.cat(
            [
                torch.full((n,), 1.0 / h, dtype=self.dtype, device=self.device)
                for n, h in zip(self.sizes, self.holders, strict=True)
            ]
        )

    def flatten(self, tensors: Sequence[Tensor | None], *, and_scalar: Tensor | None = None) -> Tensor:
        """Join `tensors` into one vector of shape (size,); None counts as zeros.

        With a scalar at its end, where one is given.
        """
        parts = [
            torch.zeros(n, dtype=self.dtype, device=self.device)
            if t is None
            else local(t.detach()).reshape(-1).to(device=self.device, dtype=self.dtype)
            for t, n in zip(tensors, self.sizes, strict=True)
        ]
        if and_scalar is not None:
            parts.append(and_scalar.detach().reshape(1).to(device=self.device, dtype=self.dtype))
        return torch.cat(parts)

    def split(self, flat: Tensor) -> list[Tensor]:
        """Cut `flat` of shape (size,) into tensors of the parameters' shapes, dtypes and devices."""
        return [
            part.view(shape).to(device=device, dtype=dtype)
            for part, shape, dtype, device in zip(
                flat.split(self.sizes), self.shapes, self.dtypes, self.devices, strict=True
            )
        ]


def summed(vectors: Iterable[Tensor]) -> Tensor:
    """The sum of `vectors`, in the place of the first; there is one at least."""
    each = iter(vectors)
    total = next(each)
    for v in each:
        total += v
    return total


def local_dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of two flat vectors of this process, summed in float64: a tensor of shape ()."""
    total = torch.zeros((), dtype=torch.float64, device=a.device)
    length = _AT_A_TIME_ON_CPU if a.device.type == "cpu" else _AT_A_TIME
    for x, y in zip(a.split(length), b.split(length), strict=True):
        left = x.double()
        total += torch.dot(left, left if a is b else y.double())
    return total
