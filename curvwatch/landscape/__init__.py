"""The loss landscape of a trained network: slices through it, and the path of a training.

>>> from curvwatch.landscape import slice_2d
>>> slice_2d(module, batches=loader).plot().savefig("slice.png")  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

from curvwatch.landscape.alignment.align import align
from curvwatch.landscape.alignment.result import Aligned
from curvwatch.landscape.checkpoints import Checkpoint, weights_of
from curvwatch.landscape.module_surface import ModuleSurface, Subject, surface_of
from curvwatch.landscape.paths.figures import plot_interpolations, plot_paths
from curvwatch.landscape.paths.interpolation import Interpolation, interpolate
from curvwatch.landscape.paths.paths import path
from curvwatch.landscape.paths.results import Path
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
from curvwatch.landscape.snapshots.files import Snapshot, snapshots_in
from curvwatch.landscape.surface import FunctionSurface, Group, Surface, groups_of

if TYPE_CHECKING:
    from curvwatch.landscape.snapshots.callback import Snapshots

__all__ = [
    "Aligned",
    "Checkpoint",
    "Directions",
    "FunctionSurface",
    "Group",
    "Interpolation",
    "ModuleSurface",
    "Path",
    "Slice",
    "Slice1D",
    "Slice2D",
    "Snapshot",
    "Snapshots",
    "Subject",
    "Surface",
    "align",
    "eigenvectors",
    "given_directions",
    "gradient_direction",
    "groups_of",
    "interpolate",
    "load_slice",
    "path",
    "plane",
    "plane_directions",
    "plot_interpolations",
    "plot_paths",
    "principal_directions",
    "random_directions",
    "slice_1d",
    "slice_2d",
    "snapshots_in",
    "surface_of",
    "trajectory",
    "update_directions",
    "weights_of",
]


def __getattr__(name: str) -> Any:
    # a callback: the rest is of use without Lightning
    if name == "Snapshots":
        from curvwatch.landscape.snapshots.callback import Snapshots

        return Snapshots
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
