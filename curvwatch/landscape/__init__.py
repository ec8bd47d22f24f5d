"""The loss landscape of a trained network: slices through it, and the way a training took.

>>> from curvwatch.landscape import slice_2d
>>> slice_2d(module, batches=loader).plot().savefig("slice.png")  # doctest: +SKIP
"""

from curvwatch.landscape.checkpoints import Checkpoint, weights_of
from curvwatch.landscape.directions import (
    Directions,
    eigenvectors,
    given_directions,
    gradient_direction,
    plane_directions,
    principal_directions,
    random_directions,
)
from curvwatch.landscape.module_surface import ModuleSurface, Subject, surface_of
from curvwatch.landscape.results import Slice, Slice1D, Slice2D, load_slice
from curvwatch.landscape.slices import plane, slice_1d, slice_2d, trajectory
from curvwatch.landscape.surface import FunctionSurface, Group, Surface, groups_of

__all__ = [
    "Checkpoint",
    "Directions",
    "FunctionSurface",
    "Group",
    "ModuleSurface",
    "Slice",
    "Slice1D",
    "Slice2D",
    "Subject",
    "Surface",
    "eigenvectors",
    "given_directions",
    "gradient_direction",
    "groups_of",
    "load_slice",
    "plane",
    "plane_directions",
    "principal_directions",
    "random_directions",
    "slice_1d",
    "slice_2d",
    "surface_of",
    "trajectory",
    "weights_of",
]
