"""The `curvwatch` command: one function for each sub-command that adds its arguments and runs it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from curvwatch import __version__
from curvwatch.compare.text import printable
from curvwatch.errors import CurvwatchError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `curvwatch` with `arguments` (default: those of the process); the exit status."""
    parser = argparse.ArgumentParser(
        prog="curvwatch", description="Curvature of the loss while a network trains."
    )
    parser.add_argument("--version", action="version", version=f"curvwatch {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    chosen = parser.parse_args(arguments)
    try:
        chosen.run(chosen)
    except CurvwatchError as error:
        print(f"curvwatch: {error}", file=sys.stderr)
        return 1
    return 0


def need(command: str, extra: str, modules: dict[str, str]) -> None:
    """Raise unless all of `modules`, import name to package name, are installed.

    Raises:
        CurvwatchError: some are missing; the message names them and the extra that has them.
    """
    missing = [package for module, package in modules.items() if find_spec(module) is None]
    if missing:
        raise CurvwatchError(
            f"`curvwatch {command}` needs {' and '.join(missing)}: pip install 'curvwatch[{extra}]'"
        )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a positive whole number is needed")
    return int(text)


def _add_demo(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="train on handwritten digits with three optimizers and show the edge of stability",
        description="Trains a small network on scikit-learn's handwritten digits with SGD, SGD with "
        "momentum, and Adam; writes TensorBoard logs; prints a table. Takes about a minute.",
    )
    parser.add_argument(
        "--dir", type=Path, default=Path("runs/demo"), help="where the logs go (default: %(default)s)"
    )
    parser.add_argument(
        "--steps",
        type=_positive,
        default=1200,
        help="optimizer steps of each run (default: %(default)s; they reach their edges at about 550)",
    )
    parser.set_defaults(run=_demo)


def _demo(chosen: argparse.Namespace) -> None:
    packages = {"sklearn": "scikit-learn", "tensorboard": "tensorboard", "rich": "rich"}
    need("demo", "demo", packages)
    from curvwatch.demo import run_demo

    run_demo(chosen.dir, steps=chosen.steps)


def _add_compare(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="compare runs: a table, and with -o a report",
        description="Reads TensorBoard event folders, CSVLogger folders, offline W&B runs and files of "
        "History.save, mixed; prints a row a run.",
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="a run, or a folder with runs anywhere below"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write a report in HTML, too")
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="the loss of the table, in place of curvature/loss; again for further columns and charts; "
        "NAME:max where the largest value is the best",
    )
    parser.add_argument(
        "--x",
        choices=("step", "time", "epoch"),
        default="step",
        help="what the charts of the report are drawn over (default: %(default)s)",
    )
    parser.set_defaults(run=_compare)


def _compare(chosen: argparse.Namespace) -> None:
    need("compare", "report", {"rich": "rich", "yaml": "PyYAML"})
    from rich.console import Console

    from curvwatch.compare.read import read_runs
    from curvwatch.compare.summary import Wanted
    from curvwatch.compare.terminal import print_comparison

    runs, problems = read_runs(chosen.runs)
    if not any(run.curves for run in runs):
        told = [f"{printable(run.path)}: {line}" for run in runs for line in run.problems]
        raise CurvwatchError("no run could be read\n" + "\n".join([*told, *problems]))
    metrics = [Wanted(name.removesuffix(":max"), name.endswith(":max")) for name in chosen.metric]
    for wanted in metrics:
        if not any(wanted.name in run.curves for run in runs):
            problems.append(f"--metric {wanted.name}: no run has it")
    console = Console(highlight=False)
    print_comparison(runs, problems, console=console, metrics=metrics)
    if chosen.output is not None:
        need("compare -o", "report", {"jinja2": "Jinja2"})
        from curvwatch.compare.report import write_report

        try:
            write_report(runs, chosen.output, x=chosen.x, metrics=metrics, problems=problems)
        except OSError as error:
            raise CurvwatchError(f"the report cannot be written: {printable(error)}") from error
        console.print(f"\nThe report is in {printable(chosen.output)}", markup=False, soft_wrap=True)


def _add_show(commands: Any) -> None:
    parser = commands.add_parser(
        "show",
        help="show one run with small charts",
        description="Latest readings, charts and alerts of one run, in the terminal.",
    )
    parser.add_argument("run_path", type=Path, metavar="RUN", help="the folder or file of a run")
    parser.add_argument(
        "--follow",
        action="store_true",
        help="go on as the run does, until Ctrl-C; loggers write now and then, TensorBoard's every "
        "two minutes and at ends of epochs",
    )
    parser.set_defaults(run=_show)


def _show(chosen: argparse.Namespace) -> None:
    need("show", "report", {"rich": "rich", "yaml": "PyYAML", "plotext": "plotext"})
    from rich.console import Console

    from curvwatch.compare.show import follow, show

    (follow if chosen.follow else show)(chosen.run_path, console=Console(highlight=False))


def _add_advise(commands: Any) -> None:
    parser = commands.add_parser(
        "advise",
        help="what the readings of a run say about its learning rate",
        description="The largest constant learning rate that the landscape of a run supports, whether "
        "to warm up to it, and the evidence. Reads the logs that `curvwatch compare` reads; a run of "
        "some hundred steps at a small learning rate is enough.",
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="a run, or a folder with runs anywhere below"
    )
    parser.set_defaults(run=_advise)


def _advise(chosen: argparse.Namespace) -> None:
    need("advise", "report", {"yaml": "PyYAML"})
    from curvwatch.advice import advise_curves
    from curvwatch.compare.read import read_runs

    runs, problems = read_runs(chosen.runs)
    lines = [f"{printable(run.path)}: {line}" for run in runs for line in run.problems] + problems
    if not any(run.curves for run in runs):
        raise CurvwatchError("\n".join(["no run could be read", *lines]))
    for run in runs:
        advice = advise_curves(run.curves, doubtful=run.doubtful)
        text = [printable(line) for line in str(advice).splitlines()]
        print("\n".join([printable(run.name), *(f"  {line}".rstrip() for line in text)]))
    for line in lines:
        print(line, file=sys.stderr)


def _add_measures(commands: Any) -> None:
    parser = commands.add_parser(
        "measures",
        help="list all measures and presets: what they read, what it costs, where it comes from",
        description="Each measure with its metrics, its price in gradients and Hessian-vector "
        "products, and its source. CurvatureMonitor(['sharpness', ...]) takes these names. "
        "CurvatureMonitor.preset(...) takes those of the presets, which are sets of measures.",
    )
    parser.add_argument("names", nargs="*", metavar="MEASURE", help="these alone, with their metrics")
    parser.add_argument("--brief", action="store_true", help="a line of each")
    parser.set_defaults(run=_measures)


def _measures(chosen: argparse.Namespace) -> None:
    need("measures", "report", {"rich": "rich"})
    from rich.console import Console

    from curvwatch.measures import MEASURES
    from curvwatch.price_list import print_measures

    unknown = [name for name in chosen.names if name not in MEASURES]
    if unknown:
        raise CurvwatchError(f"{printable(unknown[0])}: one of {', '.join(MEASURES)} is needed")
    print_measures(chosen.names, console=Console(highlight=False), brief=chosen.brief)


def _add_subject(parser: Any, ckpt: str) -> None:
    """What commands about checkpoints look at."""
    made = parser.add_argument_group("what is looked at")
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
        "--max-batches", type=_positive, metavar="N", help="use the first N batches (default: all)"
    )
    made.add_argument("--device", help="default: cuda where there is one, else cpu")


def _add_slice(commands: Any) -> None:
    parser = commands.add_parser(
        "slice",
        help="draw the loss landscape around checkpoints",
        description="The loss on a line or a plane through the weights of a checkpoint: along random, "
        "filter-normalised directions, the Hessian's eigenvectors, the gradient, through three "
        "checkpoints, or where those of a training vary most.",
    )
    _add_subject(
        parser, "the checkpoint; three for --directions plane, three or more in their order for pca"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--directions",
        choices=("random", "hessian", "gradient", "plane", "pca"),
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
        "--points", type=_positive, default=25, help="to a side, odd (default: %(default)s)"
    )
    how.add_argument(
        "--distance",
        type=float,
        default=1.0,
        help="to each side, in lengths of the directions (default: %(default)s); plane and pca cover "
        "their checkpoints",
    )
    how.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    out = parser.add_argument_group("what comes out")
    out.add_argument("-o", "--output", type=Path, metavar="FILE", help="the figure: .png, .pdf or .svg")
    out.add_argument(
        "--kind", choices=("contour", "surface"), default="contour", help="default: %(default)s"
    )
    out.add_argument(
        "--save",
        type=Path,
        metavar="FILE",
        help="the numbers, for curvwatch.landscape.load_slice: .npz",
    )
    parser.set_defaults(run=_slice)


def _slice(chosen: argparse.Namespace) -> None:
    if chosen.output is not None:
        need("slice -o", "report", {"matplotlib": "matplotlib"})
    if chosen.config is not None:
        need("slice --config", "config", {"jsonargparse": "jsonargparse", "yaml": "PyYAML"})
    from curvwatch.landscape.command import run_slice

    run_slice(chosen)


def _add_path(commands: Any) -> None:
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
    how.add_argument("--points", type=_positive, default=31, help="losses (default: %(default)s)")
    how.add_argument("--steps", type=_positive, help="of training, or of the band (default: 200; 100)")
    how.add_argument("--bends", type=_positive, help="of a curve or chain (default: 1)")
    how.add_argument("--pivots", type=_positive, help="of a band (default: 7)")
    how.add_argument("--optimizer", choices=("adam", "sgd"), help="default: adam")
    how.add_argument("--learning-rate", type=float, help="default: 0.01 for adam, 0.1 for sgd")
    how.add_argument(
        "--batches-per-step", type=_positive, metavar="N", help="of training (default: all batches)"
    )
    how.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    out = parser.add_argument_group("what comes out")
    out.add_argument("-o", "--output", type=Path, metavar="FILE", help="the figure: .png, .pdf or .svg")
    out.add_argument(
        "--save", type=Path, metavar="FILE", help="the path, for curvwatch.landscape.Path.load: .npz"
    )
    parser.set_defaults(run=_path)


def _path(chosen: argparse.Namespace) -> None:
    _need_for(chosen, "path")
    if chosen.align:
        need("path --align", "landscape", {"scipy": "scipy"})
    from curvwatch.landscape.path_command import run_path

    run_path(chosen)


def _add_interpolate(commands: Any) -> None:
    parser = commands.add_parser(
        "interpolate",
        help="the loss on the straight line from one checkpoint to another: does it only fall?",
        description="Losses from the first checkpoint, such as the initialisation of a run, to the "
        "second, its largest rise, distances, and how much the outputs turn on the way.",
    )
    _add_subject(parser, "the checkpoint; give the beginning and the end")
    how = parser.add_argument_group("how")
    how.add_argument("--points", type=_positive, default=51, help="losses (default: %(default)s)")
    how.add_argument(
        "--snapshots",
        type=Path,
        metavar="FOLDER",
        help="that the callback Snapshots wrote: the length of the way that the optimizer took",
    )
    how.add_argument("--no-outputs", action="store_true", help="leave out the Gauss length")
    how.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    out = parser.add_argument_group("what comes out")
    out.add_argument("-o", "--output", type=Path, metavar="FILE", help="the figure: .png, .pdf or .svg")
    out.add_argument(
        "--save",
        type=Path,
        metavar="FILE",
        help="the numbers, for curvwatch.landscape.Interpolation.load: .npz",
    )
    parser.set_defaults(run=_interpolate)


def _interpolate(chosen: argparse.Namespace) -> None:
    _need_for(chosen, "interpolate")
    from curvwatch.landscape.path_command import run_interpolate

    run_interpolate(chosen)


def _need_for(chosen: argparse.Namespace, command: str) -> None:
    if chosen.output is not None:
        need(f"{command} -o", "report", {"matplotlib": "matplotlib"})
    if chosen.config is not None:
        need(f"{command} --config", "config", {"jsonargparse": "jsonargparse", "yaml": "PyYAML"})


COMMANDS: tuple[Callable[[Any], None], ...] = (
    _add_demo,
    _add_compare,
    _add_show,
    _add_advise,
    _add_measures,
    _add_slice,
    _add_path,
    _add_interpolate,
)
