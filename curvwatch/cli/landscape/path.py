"""`curvwatch path` and `curvwatch interpolate`, from the command line."""

from __future__ import annotations

import argparse
from pathlib import Path as File
from typing import Any, cast

from curvwatch.cli.landscape import common, loading
from curvwatch.errors import CurvwatchError
from curvwatch.landscape.alignment.align import align
from curvwatch.landscape.alignment.result import Aligned
from curvwatch.landscape.alignment.units import ADVICE
from curvwatch.landscape.batch_norm import Recalibrated
from curvwatch.landscape.checkpoints import Checkpoint
from curvwatch.landscape.module_surface import ModuleSurface
from curvwatch.landscape.paths.figures import plot_paths
from curvwatch.landscape.paths.interpolation import Interpolation, interpolate
from curvwatch.landscape.paths.paths import path
from curvwatch.landscape.paths.results import Path
from curvwatch.landscape.snapshots.files import snapshots_in
from curvwatch.objective.loss_checks import scalar_loss
from curvwatch.report.text import printable

# in place of what a call would say
_SPEC = "--align-spec PACKAGE:NAME says which axes belong together (docs/landscape.md)"
# of the command, by the kinds that they are for
_OPTIONS = (
    *("steps", "bends", "draws", "optimizer", "learning_rate", "batches_per_step"),
    *("pivots", "inserts", "spring", "tolerance", "climb"),
)


def run_path(chosen: argparse.Namespace) -> None:
    """Do what the arguments of `curvwatch path` say.

    Raises:
        CurvwatchError: it cannot be done; the message says why.
    """
    _check(chosen)
    options = {n: getattr(chosen, n) for n in _OPTIONS if getattr(chosen, n) is not None}
    aligns = chosen.align or chosen.align_spec is not None
    with loading.importing_from_here():
        surface = common.surface_from(chosen)
        a, b = chosen.ckpt
        end: Checkpoint | Aligned = b
        if aligns:
            end = _align_second(chosen, cast(ModuleSurface, surface), a, b)
            _print_aligned(end)
        grid: dict[str, Any] = {"points": chosen.points, "seed": chosen.seed}
        found = path(surface, a, end, kind=chosen.kind, **grid, **options)
        label = f"{chosen.kind}, aligned" if aligns else chosen.kind
        _print_path(found, label)
        if chosen.save is not None:
            print(f"The path is in {printable(found.save(chosen.save))}")
        if chosen.output is not None:
            drawn, labels = [found], [label]
            if label != "line":
                straight = path(surface, a, b, **grid)
                print(f"line: barrier {straight.barrier:.4g}")
                drawn, labels = [straight, found], ["line", label]
            plot_paths(drawn, labels=labels).savefig(chosen.output, dpi=150)
            print(f"The figure is in {printable(chosen.output)}")


def _align_second(chosen: argparse.Namespace, surface: ModuleSurface, a: File, b: File) -> Aligned:
    """The second network, permuted; its loss on the first batch shows that it computes the same."""
    spec = None if chosen.align_spec is None else loading.spec_of(chosen.align_spec)
    loss_fn: Any = surface.objective.loss_fn
    if isinstance(loss_fn, Recalibrated):  # statistics of batch norm are permuted, not estimated
        loss_fn = loss_fn.loss_fn
    try:
        return align(
            surface.module,
            a,
            b,
            spec=spec,
            inputs=surface.objective.samples[0].batch,
            forward=lambda _, batch: scalar_loss(loss_fn(batch)),
            seed=chosen.seed,
        )
    except CurvwatchError as error:
        raise CurvwatchError(str(error).replace(ADVICE, _SPEC)) from error


def run_interpolate(chosen: argparse.Namespace) -> None:
    """Do what the arguments of `curvwatch interpolate` say.

    Raises:
        CurvwatchError: it cannot be done; the message says why.
    """
    _check(chosen)
    snapshots = None if chosen.snapshots is None else snapshots_in(chosen.snapshots)
    with loading.importing_from_here():
        surface = common.surface_from(chosen)
        found = interpolate(
            surface,
            *chosen.ckpt,
            points=chosen.points,
            snapshots=snapshots,
            outputs=not chosen.no_outputs,
        )
        _print_line(found)
        if chosen.save is not None:
            print(f"The numbers are in {printable(found.save(chosen.save))}")
        if chosen.output is not None:
            found.plot().savefig(chosen.output, dpi=150)
            print(f"The figure is in {printable(chosen.output)}")


def _check(chosen: argparse.Namespace) -> None:
    """Check what the library cannot know, before minutes of work."""
    common.check_subject(chosen)
    if len(chosen.ckpt) != 2:
        raise CurvwatchError(f"two --ckpt are needed, and {len(chosen.ckpt)} were given")
    common.check_files(chosen)


def _print_aligned(found: Aligned) -> None:
    print(
        f"aligned: {found.moved:.0%} of the hidden units have another place, the distance falls from "
        f"{found.distance_before:.4g} to {found.distance:.4g}; the loss of the first batch changes by "
        f"{found.error:.1g} of itself"
    )


def _print_path(found: Path, label: str) -> None:
    higher = max(found.losses[0], found.losses[-1])
    print(
        f"{label}: barrier {found.barrier:.4g}, above the higher end's loss of {higher:.4g}, at t = "
        f"{found.barrier_t:.3g}"
    )
    widest, beside = found.resolution
    print(
        f"  length {found.length:.4g}; losses at most {widest:.2g} apart in t, {beside:.2g} at the top"
    )
    for note in found.notes:
        print(f"  {printable(note)}")
    print(f"cost: {found.forwards:.4g} passes over the data, {found.gradients:.4g} gradients")


def _print_line(found: Interpolation) -> None:
    first, last = found.losses[0], found.losses[-1]
    verdict = "monotone" if found.monotone else f"rises by up to {found.bump:.4g}"
    print(f"loss {first:.6g} to {last:.6g}, {verdict} (tolerance {found.tolerance:.1g})")
    print(f"  distance {found.distance:.4g}; losses are {found.resolution:.2g} apart in alpha")
    if found.path_length == found.path_length:  # not nan
        print(f"  length of the path through the snapshots {found.path_length:.4g}")
    gauss = found.gauss
    if gauss.joint == gauss.joint:
        print(
            f"  Gauss length {gauss.joint:.3g} +- {gauss.joint_error:.1g}; the mean over examples "
            f"{gauss.each:.3g} +- {gauss.each_error:.1g}"
        )
    for note in found.notes:
        print(f"  {printable(note)}")
