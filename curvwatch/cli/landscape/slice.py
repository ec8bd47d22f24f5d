"""`curvwatch slice`: a slice through the loss of a checkpoint, from the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from curvwatch.cli.landscape import common, loading
from curvwatch.errors import CurvwatchError
from curvwatch.landscape.slices.checkpoint_directions import update_directions
from curvwatch.landscape.slices.results import Slice1D, Slice2D
from curvwatch.landscape.slices.slices import plane, slice_1d, slice_2d, trajectory
from curvwatch.landscape.surface import Surface
from curvwatch.report.text import printable

# how many checkpoints each takes: at least, at most
_COUNTS: dict[str, tuple[int, int | None]] = {
    "random": (1, 1),
    "hessian": (1, 1),
    "gradient": (1, 1),
    "update": (2, 2),
    "plane": (3, 3),
    "pca": (3, None),
}


def run_slice(chosen: argparse.Namespace) -> None:
    """Do what the arguments of the command say.

    Raises:
        CurvwatchError: it cannot be done; the message says why.
    """
    _check(chosen)
    with loading.importing_from_here():
        surface = common.surface_from(chosen)
        found = _found(chosen, surface)
        _print_summary(found)
        if chosen.save is not None:
            print(f"The numbers are in {printable(found.save(chosen.save))}")
        if chosen.output is not None:
            figure = found.plot(chosen.kind) if isinstance(found, Slice2D) else found.plot()
            figure.savefig(chosen.output, dpi=150)
            print(f"The figure is in {printable(chosen.output)}")


def _check(chosen: argparse.Namespace) -> None:
    """Check what the library cannot know, before minutes of work."""
    common.check_subject(chosen)
    if chosen.output is None and chosen.save is None:
        raise CurvwatchError("-o FILE for a figure, or --save FILE for the numbers, is needed")
    least, most = _COUNTS[chosen.directions]
    count = len(chosen.ckpt)
    if count < least or (most is not None and count > most):
        wanted = f"{least} --ckpt" if most is not None else f"{least} --ckpt or more"
        raise CurvwatchError(f"--directions {chosen.directions} takes {wanted}, and {count} were given")
    many = chosen.directions in ("plane", "pca")
    if many and chosen.dims == 1:
        raise CurvwatchError(f"--directions {chosen.directions} is a plane: leave out --dims 1")
    if many and chosen.distance is not None:
        raise CurvwatchError(
            f"--directions {chosen.directions} covers its checkpoints: leave out --distance"
        )
    if many or chosen.directions == "update":
        for option, given in (("--normalize", chosen.normalize), ("--keep-1d", chosen.keep_1d)):
            if given:
                raise CurvwatchError(
                    f"{option} would turn what --directions {chosen.directions} uses into "
                    "another direction: leave it out"
                )
    if chosen.rtol is not None and chosen.directions != "hessian":
        raise CurvwatchError(f"--rtol is of --directions hessian, not of {chosen.directions}")
    common.check_files(chosen)


def _found(chosen: argparse.Namespace, surface: Surface) -> Slice1D | Slice2D:
    if chosen.directions == "plane":
        return plane(surface, chosen.ckpt, names=_names(chosen.ckpt), points=chosen.points)
    if chosen.directions == "pca":
        return trajectory(surface, chosen.ckpt, names=_names(chosen.ckpt), points=chosen.points)
    if chosen.directions == "update":
        before, after = chosen.ckpt
        along = update_directions(surface, before, after, chosen.dims, names=_names(chosen.ckpt))
        make: Any = slice_1d if chosen.dims == 1 else slice_2d
        found: Slice1D | Slice2D = make(surface, along, distance=chosen.distance, points=chosen.points)
        return found
    options: dict[str, Any] = {
        "distance": 1.0 if chosen.distance is None else chosen.distance,
        "points": chosen.points,
        "normalize": chosen.normalize,
        "keep_1d": chosen.keep_1d,
        "ends": chosen.ends,
        "rtol": chosen.rtol,
        "seed": chosen.seed,
    }
    if chosen.dims == 1:
        return slice_1d(surface, chosen.directions, **options)
    return slice_2d(surface, chosen.directions, **options)


def _names(paths: list[Path]) -> list[str]:
    """Of the files; with their folders where two are called alike."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [f"{p.parent.name}/{p.stem}" for p in paths]


def _print_summary(found: Slice1D | Slice2D) -> None:
    losses = found.losses
    finite = torch.from_numpy(losses).isfinite().numpy()
    print(printable(found.description))
    for note in found.notes:
        print(f"  {printable(note)}")
    spread = f"from {losses[finite].min():.6g} to {losses[finite].max():.6g}" if finite.any() else "no"
    holes = f", {(~finite).sum()} of {losses.size} points are nan or inf" * bool((~finite).any())
    where = "origin" if found.point_names else "start"
    print(f"loss {found.start_loss:.6g} at the {where}, {spread} on the slice{holes}")
    for name, loss in zip(found.point_names, found.point_losses, strict=True):
        print(f"  {printable(name)}: loss {loss:.6g}")
    print(
        f"cost: {found.forwards} passes over the data, {found.gradients} gradients, "
        f"{found.products} Hessian-vector products"
    )
