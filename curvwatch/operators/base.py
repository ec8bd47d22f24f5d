"""Symmetric linear operators: all that a solver needs to know of a matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class SymmetricOperator(Protocol):
    """A symmetric matrix of shape (size, size) that is known by its products."""

    @property
    def size(self) -> int:
        """Number of rows."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the vectors."""

    @property
    def device(self) -> torch.device:
        """Of the vectors."""

    def matvec(self, v: Tensor) -> Tensor:
        """A v, from shape (size,) to shape (size,)."""

    def inner(self, rows: Tensor, v: Tensor) -> Tensor:
        """Inner products of `rows` (k, size) with `v` (size,), in float64: shape (k,)."""


class FunctionOperator:
    """An operator from a function v -> A v.

    Args:
        matvec: from (size,) to (size,).
        size: number of rows.
        dtype: of the vectors.
        device: of the vectors.

    Example:
        >>> diagonal = torch.tensor([3.0, 1.0])
        >>> FunctionOperator(lambda v: diagonal * v, size=2).matvec(torch.ones(2))
        tensor([3., 1.])
    """

    def __init__(
        self,
        matvec: Callable[[Tensor], Tensor],
        *,
        size: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self._matvec = matvec
        self._size = size
        self._dtype = dtype
        self._device = torch.device(device)

    @property
    def size(self) -> int:
        """Number of rows."""
        return self._size

    @property
    def dtype(self) -> torch.dtype:
        """Of the vectors."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Of the vectors."""
        return self._device

    def matvec(self, v: Tensor) -> Tensor:
        """A v."""
        return self._matvec(v)

    def inner(self, rows: Tensor, v: Tensor) -> Tensor:
        """Inner products of `rows` (k, size) with `v` (size,), in float64: shape (k,)."""
        return torch.mv(rows, v).double()
