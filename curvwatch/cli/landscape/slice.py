"""`curvwatch slice`: a slice through the loss of a checkpoint, from the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from curvwatch.cli.landscape import loading
from curvwatch.errors import CurvwatchError
from curvwatch.landscape.checkpoints import load
from curvwatch.landscape.module_surface import surface_of
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
        surface = surface_from(chosen)
        found = _found(chosen, surface)
        _tell(found)
        if chosen.save is not None:
            print(f"The numbers are in {printable(found.save(chosen.save))}")
        if chosen.output is not None:
            figure = found.plot(chosen.kind) if isinstance(found, Slice2D) else found.plot()
            figure.savefig(chosen.output, dpi=150)
            print(f"The figure is in {printable(chosen.output)}")


def _check(chosen: argparse.Namespace) -> None:
    """Before minutes of work."""
    if chosen.module is None and chosen.config is None:
        raise CurvwatchError("--module PACKAGE:CLASS, or --config YAML, is needed")
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
    if chosen.points < 3 or (not many and chosen.points % 2 == 0):
        raise CurvwatchError(f"--points {chosen.points}: an odd number, 3 at least, is needed")
    if chosen.distance is not None and not 0 < chosen.distance < float("inf"):
        raise CurvwatchError(f"--distance {chosen.distance}: a positive number is needed")
    if many and chosen.distance is not None:
        raise CurvwatchError(
            f"--directions {chosen.directions} covers its checkpoints: leave out --distance"
        )
    if many or chosen.directions == "update":
        for option, given in (("--normalize", chosen.normalize), ("--keep-1d", chosen.keep_1d)):
            if given:
                raise CurvwatchError(
                    f"{option} would turn what --directions {chosen.directions} looks along into "
                    "another direction: leave it out"
                )
    if chosen.rtol is not None:
        if chosen.directions != "hessian":
            raise CurvwatchError(f"--rtol is of --directions hessian, not of {chosen.directions}")
        if not 0 < chosen.rtol < 1:
            raise CurvwatchError(f"--rtol {chosen.rtol}: a number between 0 and 1 is needed")
    if chosen.directions == "hessian":
        if chosen.normalize not in (None, "none"):
            raise CurvwatchError(
                f"--normalize {chosen.normalize} would turn an eigenvector into another direction"
            )
        if chosen.ends == "both" and chosen.dims == 1:
            raise CurvwatchError("--ends both are two directions: leave out --dims 1")
    for path in (chosen.output, chosen.save):
        if path is not None and not path.parent.is_dir():
            raise CurvwatchError(f"{printable(path)}: there is no folder {printable(path.parent)}")
    if chosen.output is not None:
        from matplotlib.figure import Figure

        known = Figure().canvas.get_supported_filetypes()
        if chosen.output.suffix.removeprefix(".").lower() not in known:
            raise CurvwatchError(
                f"-o {printable(chosen.output)}: one of {', '.join(sorted(known))} is needed at its end"
            )


def surface_from(chosen: argparse.Namespace) -> Surface:
    """The surface that the arguments of a command name."""
    last = chosen.ckpt[-1]
    data: Any = None
    if chosen.config is not None:
        module, data = loading.from_config(chosen.config, module=chosen.module, data=chosen.data)
        module = loading.filled(module, last, load(last))
    else:
        module = loading.module_of(chosen.module, last)
    if data is not None:
        batches = loading.batches_from(data, str(chosen.config))
    else:
        batches = loading.batches_of(chosen.data, module, last)
    device = chosen.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        module.to(device)
    except (RuntimeError, AssertionError) as error:
        raise CurvwatchError(f"--device {device}: {error}") from error
    loss_fn = None if chosen.loss is None else loading.named(chosen.loss)
    try:
        return surface_of(
            module,
            batches,
            loss_fn=loss_fn,
            mode=chosen.mode,
            max_batches=chosen.max_batches,
            seed=chosen.seed,
        )
    except ValueError as error:
        raise CurvwatchError(str(error)) from error


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


def _tell(found: Slice1D | Slice2D) -> None:
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
