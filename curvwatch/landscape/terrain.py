"""What paths ask of a loss: its value and its gradient at flat weights."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Terrain(Protocol):
    """A loss over flat vectors of weights; a `Surface` is one, and so is a function with a formula."""

    @property
    def size(self) -> int:
        """Length of a vector of weights."""

    @property
    def dtype(self) -> torch.dtype:
        """Of vectors."""

    @property
    def device(self) -> torch.device:
        """Of vectors."""

    def loss(self, w: Tensor, /) -> float:
        """The loss at `w` of shape (size,)."""

    def gradient(self, w: Tensor, /) -> tuple[float, Tensor]:
        """The loss at `w` of shape (size,) and its gradient of the same shape."""


class Counted:
    """A terrain that counts what is asked of it.

    Args:
        terrain: that is asked.

    Attributes:
        forwards: losses so far, those of gradients not among them.
        gradients: so far.
    """

    def __init__(self, terrain: Terrain) -> None:
        self._terrain = terrain
        self.size, self.dtype, self.device = terrain.size, terrain.dtype, terrain.device
        self.forwards = 0
        self.gradients = 0

    def loss(self, w: Tensor, /) -> float:
        """The loss at `w` of shape (size,)."""
        self.forwards += 1
        return float(self._terrain.loss(w))

    def gradient(self, w: Tensor, /) -> tuple[float, Tensor]:
        """The loss at `w` of shape (size,) and its gradient of the same shape."""
        self.gradients += 1
        loss, gradient = self._terrain.gradient(w)
        return float(loss), gradient
