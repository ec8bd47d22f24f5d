"""Commands that evaluate the landscape of checkpoints: slice, path, interpolate."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from curvwatch.cli.arguments import need, positive


def _add_subject(parser: Any, ckpt: str) -> None:
    """The arguments of what commands about checkpoints evaluate."""
    made = parser.add_argument_group("what is evaluated")
    made.add_argument(
        "--module",
        metavar="PACKAGE:CLASS",
        help="the LightningModule, or a function that makes a module; made with the hyperparameters in "
        "the checkpoint",
    )
    made.add_argument(
        "--config",
        type=Path,
        metavar="YAML",
        help="the config.yaml that LightningCLI wrote, in place of --module and --data",
    )
    made.add_argument("--ckpt", type=Path, action="append", required=True, metavar="FILE", help=ckpt)
    made.add_argument(
        "--data",
        metavar="PACKAGE:NAME",
        help="a function that returns a DataLoader or a list of batches, or a DataModule (default: the "
        "module's own train_dataloader)",
    )
    made.add_argument(
        "--loss",
        metavar="PACKAGE:FUNCTION",
        help="function of the module and a batch (default: the module's training_step)",
    )
    made.add_argument(
        "--mode", choices=("eval", "train"), default="eval", help="of the module (default: %(default)s)"
    )
    made.add_argument(
        "--max-batches", type=positive, metavar="N", help="use the first N batches (default: all)"
    )
    made.add_argument("--device", help="default: cuda where there is one, else cpu")


def _add_output(parser: Any, numbers: str) -> Any:
    """Where figure and `numbers` go; the group of arguments."""
    out = parser.add_argument_group("what comes out")
    out.add_argument("-o", "--output", type=Path, metavar="FILE", help="the figure: .png, .pdf or .svg")
    out.add_argument("--save", type=Path, metavar="FILE", help=f"{numbers}: .npz")
    return out


def add_slice(commands: Any) -> None:
    """`curvwatch slice`."""
    parser = commands.add_parser(
        "slice",
        help="draw the loss landscape around checkpoints",
        description="The loss on a line or a plane through the weights of a checkpoint: along random, "
        "filter-normalised directions, the Hessian's eigenvectors, the gradient, from one "
        "checkpoint to another, through three checkpoints, or where those of a training vary most.",
    )
    _add_subject(
        parser,
        "the checkpoint; two for --directions update, three for plane, three or more in order, evenly "
        "spaced, for pca",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--directions",
        choices=("random", "hessian", "gradient", "update", "plane", "pca"),
        default="random",
        help="default: %(default)s",
    )
    how.add_argument("--dims", type=int, choices=(1, 2), default=2, help="default: %(default)s")
    how.add_argument(
        "--normalize",
        choices=("filter", "layer", "none"),
        help="default: filter for random directions, else none",
    )
    how.add_argument("--keep-1d", action="store_true", help="move biases and the scales of norms, too")
    how.add_argument(
        "--ends",
        choices=("largest", "smallest", "both"),
        default="largest",
        help="which eigenvectors of the Hessian (default: %(default)s)",
    )
    how.add_argument(
        "--rtol",
        type=float,
        help="residual of eigenvectors relative to their eigenvalues (default: 1e-3; of up to 100 "
        "weights 1e-9)",
    )
    how.add_argument(
        "--points", type=positive, default=25, help="to a side, odd (default: %(default)s)"
    )
    how.add_argument(
        "--distance",
        type=float,
        help="to each side, in lengths of the directions (default: 1); by default update covers both "
        "checkpoints and something beyond them, as plane and pca always do",
    )
    how.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    out = _add_output(parser, "the numbers, for curvwatch.landscape.load_slice")
    out.add_argument(
        "--kind", choices=("contour", "surface"), default="contour", help="default: %(default)s"
    )
    parser.set_defaults(run=_slice)


def _slice(chosen: argparse.Namespace) -> None:
    _need_for(chosen, "slice")
    from curvwatch.cli.landscape.slice import run_slice

    run_slice(chosen)


def add_path(commands: Any) -> None:
    """`curvwatch path`."""
    parser = commands.add_parser(
        "path",
        help="find a path of low loss between two checkpoints, and its barrier",
        description="The loss on the straight line between two checkpoints of the same network, on a "
        "trained Bezier curve or chain, or on a nudged elastic band; the figure has the line, too.",
    )
    _add_subject(parser, "the checkpoint; give the two ends")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--kind",
        choices=("line", "bezier", "chain", "band"),
        default="line",
        help="default: %(default)s",
    )
    how.add_argument(
        "--align",
        action="store_true",
        help="permute the hidden units of the second network first, so that it is near the first and "
        "computes what it did; for chains of layers",
    )
    how.add_argument(
        "--align-spec",
        metavar="PACKAGE:NAME",
        help="--align for other networks: a mapping, or a function that returns it, from the name of "
        "each tensor to the permutations of its axes, such as ('h', None)",
    )
    how.add_argument("--points", type=positive, default=31, help="losses (default: %(default)s)")
    how.add_argument("--steps", type=positive, help="of training, or of the band (default: 200; 100)")
    how.add_argument("--bends", type=positive, help="of a curve or chain (default: 1)")
    how.add_argument(
        "--draws", type=positive, help="places on the curve that a step evaluates (default: 2)"
    )
    how.add_argument("--pivots", type=positive, help="of a band (default: 7)")
    how.add_argument("--inserts", type=int, help="times that a band gets more pivots (default: 0)")
    how.add_argument("--spring", type=float, help="of a band, in loss / weight^2")
    how.add_argument("--tolerance", type=float, help="of a band's forces (default: 0.01)")
    how.add_argument(
        "--no-climb", dest="climb", action="store_false", default=None, help="keep pivots evenly spaced"
    )
    how.add_argument("--optimizer", choices=("adam", "sgd"), help="default: adam")
    how.add_argument("--learning-rate", type=float, help="default: 0.01 for adam, 0.1 for sgd")
    how.add_argument(
        "--batches-per-step", type=positive, metavar="N", help="of training (default: all batches)"
    )
    how.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    _add_output(parser, "the path, for curvwatch.landscape.Path.load")
    parser.set_defaults(run=_path)


def _path(chosen: argparse.Namespace) -> None:
    _need_for(chosen, "path")
    if chosen.align or chosen.align_spec is not None:
        need("path --align", "landscape", {"scipy": "scipy"})
    from curvwatch.cli.landscape.path import run_path

    run_path(chosen)


def add_interpolate(commands: Any) -> None:
    """`curvwatch interpolate`."""
    parser = commands.add_parser(
        "interpolate",
        help="the loss on the straight line from one checkpoint to another: does it only fall?",
        description="Losses from the first checkpoint, such as the initialisation of a run, to the "
        "second, its largest rise, distances, and how much the outputs turn in between.",
    )
    _add_subject(parser, "the checkpoint; give the beginning and the end")
    how = parser.add_argument_group("how")
    how.add_argument("--points", type=positive, default=51, help="losses (default: %(default)s)")
    how.add_argument(
        "--snapshots",
        type=Path,
        metavar="FOLDER",
        help="that the callback Snapshots wrote: for the length of the path of the optimizer",
    )
    how.add_argument("--no-outputs", action="store_true", help="leave out the Gauss length")
    how.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    _add_output(parser, "the numbers, for curvwatch.landscape.Interpolation.load")
    parser.set_defaults(run=_interpolate)


def _interpolate(chosen: argparse.Namespace) -> None:
    _need_for(chosen, "interpolate")
    from curvwatch.cli.landscape.path import run_interpolate

    run_interpolate(chosen)


def _need_for(chosen: argparse.Namespace, command: str) -> None:
    if chosen.output is not None:
        need(f"{command} -o", "report", {"matplotlib": "matplotlib"})
    if chosen.config is not None:
        need(f"{command} --config", "config", {"jsonargparse": "jsonargparse", "yaml": "PyYAML"})
