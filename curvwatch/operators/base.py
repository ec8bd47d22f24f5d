"""Symmetric linear operators, what a solver needs of them, and one that is made from a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Protocol

import torch
from torch import Tensor

_CPU = torch.device("cpu")


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

    def matvec(self, v: Tensor, /) -> Tensor:
        """A v, from shape (length,) to shape (length,)."""

    def inner(self, rows: Tensor, v: Tensor, /) -> Tensor:
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


def plain_inner(rows: Tensor, v: Tensor) -> Tensor:
    """Inner products of `rows` (k, n) with `v` (n,), in float64: shape (k,)."""
    return torch.mv(rows, v).double()


@dataclass(frozen=True, eq=False)
class FunctionOperator:
    """An operator from a function v -> A v.

    Attributes:
        matvec: from shape (length,) to shape (length,).
        size: number of rows.
        dtype: of the vectors.
        device: of the vectors; also its name.
        length: entries of a vector on this process, where it is spread over several; -1: `size`.
        inner: inner products of rows with a vector, where vectors are spread over processes.

    Example:
        >>> diagonal = torch.tensor([3.0, 1.0])
        >>> FunctionOperator(lambda v: diagonal * v, size=2).matvec(torch.ones(2))
        tensor([3., 1.])
    """

    matvec: Callable[[Tensor], Tensor]
    _: KW_ONLY
    size: int
    dtype: torch.dtype = torch.float32
    device: torch.device = _CPU
    length: int = -1
    inner: Callable[[Tensor, Tensor], Tensor] = plain_inner

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", torch.device(self.device))
        if self.length == -1:
            object.__setattr__(self, "length", self.size)


def with_product(operator: SymmetricOperator, matvec: Callable[[Tensor], Tensor]) -> FunctionOperator:
    """An operator on the same vectors as `operator`, with another product."""
    return FunctionOperator(
        matvec,
        size=operator.size,
        dtype=operator.dtype,
        device=operator.device,
        length=operator.length,
        inner=operator.inner,
    )
