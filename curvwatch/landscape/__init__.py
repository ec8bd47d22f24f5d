"""The loss landscape of a trained network: slices through it, and the way a training took.

>>> from curvwatch.landscape import surface_of
>>> surface = surface_of(module, loader)  # doctest: +SKIP
"""

from curvwatch.landscape.checkpoints import Checkpoint, weights_of
from curvwatch.landscape.module_surface import ModuleSurface, Subject, surface_of
from curvwatch.landscape.surface import FunctionSurface, Group, Surface, groups_of

__all__ = [
    "Checkpoint",
    "FunctionSurface",
    "Group",
    "ModuleSurface",
    "Subject",
    "Surface",
    "groups_of",
    "surface_of",
    "weights_of",
]
