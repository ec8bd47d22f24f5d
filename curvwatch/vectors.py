"""Parameters as one flat vector and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curvwatch.errors import CurvwatchError


@dataclass(frozen=True)
class Layout:
    """Where each parameter lies in a flat vector of length `size`.

    The flat dtype is the widest of the parameters', and float32 at least: inner products of
    half-precision vectors are worth little.
    """

    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]
    devices: tuple[torch.device, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Layout:
        """Lay out `tensors` in their order.

        Raises:
            CurvwatchError: there is no tensor, or one is complex or sparse.
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
        return cls(
            shapes=tuple(t.shape for t in tensors),
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
        """Length of the flat vector."""
        return sum(self.sizes)

    def flatten(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Join `tensors` into one vector of shape (size,); None counts as zeros."""
        parts = [
            torch.zeros(n, dtype=self.dtype, device=self.device)
            if t is None
            else t.detach().reshape(-1).to(device=self.device, dtype=self.dtype)
            for t, n in zip(tensors, self.sizes, strict=True)
        ]
        return torch.cat(parts)

    def split(self, flat: Tensor) -> list[Tensor]:
        """Cut `flat` of shape (size,) into tensors of the parameters' shapes, dtypes and devices."""
        return [
            part.view(shape).to(device=device, dtype=dtype)
            for part, shape, dtype, device in zip(
                flat.split(self.sizes), self.shapes, self.dtypes, self.devices, strict=True
            )
        ]


def dot(a: Tensor, b: Tensor) -> float:
    """Inner product of two flat vectors, summed in float64."""
    total = torch.zeros((), dtype=torch.float64, device=a.device)
    for x, y in zip(a.split(1 << 22), b.split(1 << 22), strict=True):
        total += torch.dot(x.double(), y.double())
    return float(total)
