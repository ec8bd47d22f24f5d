"""S (A + C) S with diagonal S and C: a Hessian seen through a preconditioner."""

from __future__ import annotations

import torch
from torch import Tensor

from curvwatch.operators.base import SymmetricOperator


class Scaled:
    """S (sign A + C) S, for diagonal S and C.

    With S = P^-1/2 its eigenvalues are those of P^-1 (sign A + C).

    Args:
        operator: A.
        scale: the diagonal of S, shape (length,).
        shift: the diagonal of C, shape (length,), or None for zero.
        sign: 1, or -1 for -A.
        null: indices of rows and columns of A that are taken for zero; None: of none.

    Attributes:
        scale: the diagonal of S.
    """

    def __init__(
        self,
        operator: SymmetricOperator,
        scale: Tensor,
        *,
        shift: Tensor | None = None,
        sign: float = 1.0,
        null: Tensor | None = None,
    ) -> None:
        self._operator = operator
        self.scale = scale
        self._shift = shift
        self._sign = sign
        self._null = null

    @property
    def size(self) -> int:
        """Number of rows."""
        return self._operator.size

    @property
    def length(self) -> int:
        """Entries of a vector on this process."""
        return self._operator.length

    @property
    def dtype(self) -> torch.dtype:
        """Of the vectors."""
        return self._operator.dtype

    @property
    def device(self) -> torch.device:
        """Of the vectors."""
        return self._operator.device

    def matvec(self, v: Tensor) -> Tensor:
        """S (sign A + C) S v."""
        u = self.scale * v
        w = self._sign * self._without_null(self._operator.matvec(self._without_null(u)))
        if self._shift is not None:
            w = w + self._shift * u
        return self.scale * w

    def inner(self, rows: Tensor, v: Tensor) -> Tensor:
        """As the wrapped operator's."""
        return self._operator.inner(rows, v)

    def _without_null(self, v: Tensor) -> Tensor:
        return v if self._null is None else v.index_fill(0, self._null, 0.0)
