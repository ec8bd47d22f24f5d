"""A distribution that a measure read, such as a spectral density."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Histogram:
    """Mass by bins.

    Attributes:
        edges: (n + 1,) float64, rising.
        weights: (n,) float64, not negative: the mass of each bin; for a density they sum to 1.
    """

    edges: np.ndarray
    weights: np.ndarray

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.weights) + 1:
            raise ValueError(
                f"{len(self.edges)} edges and {len(self.weights)} weights: n + 1 and n are needed"
            )
