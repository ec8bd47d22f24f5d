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
    def length(self) -> int:
        """Entries of a vector on this process: `size`, but where it is spread over processes."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the vectors."""

    @property
    def device(self) -> torch.device:
        """Of the vectors."""

    def matvec(self, v: Tensor) -> Tensor:
        """A v, from shape (length,) to shape (length,)."""

    def inner(self, rows: Tensor, v: Tensor) -> Tensor:
        """Inner products of `rows` (k, length) with `v` (length,), in float64: shape (k,)."""


def unit(operator: SymmetricOperator, v: Tensor) -> Tensor:
    """`v` (length,) divided by its length; zero stays zero."""
    length = norm(operator, v)
    # not by a product with 1 / length: of a tiny vector that is inf
    return v / length if bool(length > 0) else v


def norm(operator: SymmetricOperator, v: Tensor) -> Tensor:
    """Length of `v` (length,) as a tensor of shape () in its dtype."""
    return operator.inner(v[None], v)[0].clamp(min=0.0).sqrt().to(v.dtype)


def random_signs(operator: SymmetricOperator, generator: torch.Generator) -> Tensor:
    """Entries of 1 and -1, each as likely, shape (length,), drawn on the CPU."""
    signs = torch.empty(operator.length, dtype=operator.dtype).bernoulli_(generator=generator)
    return signs.mul_(2.0).sub_(1.0).to(operator.device)


class FunctionOperator:
    """An operator from a function v -> A v.

    Args:
        matvec: from (size,) to (size,).
        size: number of rows.
        dtype: of the vectors.
        device: of the vectors.
        length: entries of a vector on this process, where it is spread over several.
        inner: inner products of rows with a vector there.

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
        length: int | None = None,
        inner: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self._matvec = matvec
        self._size = size
        self._length = size if length is None else length
        self._inner = inner
        self._dtype = dtype
        self._device = torch.device(device)

    @property
    def size(self) -> int:
        """Number of rows."""
        return self._size

    @property
    def length(self) -> int:
        """Entries of a vector on this process."""
        return self._length

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
        """Inner products of `rows` (k, length) with `v` (length,), in float64: shape (k,)."""
        return torch.mv(rows, v).double() if self._inner is None else self._inner(rows, v)
