"""Slices of the loss landscape along one or two directions."""

from curvwatch.landscape.slices.checkpoint_directions import (
    plane_directions,
    principal_directions,
    update_directions,
)
from curvwatch.landscape.slices.directions import (
    Directions,
    given_directions,
    gradient_direction,
    random_directions,
)
from curvwatch.landscape.slices.eigen_directions import eigenvectors
from curvwatch.landscape.slices.results import Slice, Slice1D, Slice2D, load_slice
from curvwatch.landscape.slices.slices import plane, slice_1d, slice_2d, trajectory

__all__ = [
    "Directions",
    "Slice",
    "Slice1D",
    "Slice2D",
    "eigenvectors",
    "given_directions",
    "gradient_direction",
    "load_slice",
    "plane",
    "plane_directions",
    "principal_directions",
    "random_directions",
    "slice_1d",
    "slice_2d",
    "trajectory",
    "update_directions",
]
