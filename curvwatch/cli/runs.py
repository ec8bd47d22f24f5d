"""Commands that make runs and read them back: demo, compare, show, advise."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curvwatch.cli.arguments import need, positive
from curvwatch.errors import CurvwatchError
from curvwatch.report.text import printable

if TYPE_CHECKING:
    from curvwatch.report.logs import LoggedRun


def add_demo(commands: Any) -> None:
    """`curvwatch demo`."""
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
        type=positive,
        default=1200,
        help="optimizer steps of each run (default: %(default)s; they reach their edges at about 550)",
    )
    parser.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> None:
    packages = {"sklearn": "scikit-learn", "tensorboard": "tensorboard", "rich": "rich"}
    need("demo", "demo", packages)
    from curvwatch.cli.demo import run_demo

    run_demo(arguments.dir, steps=arguments.steps)


def add_compare(commands: Any) -> None:
    """`curvwatch compare`."""
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
        help="the x-axis of the charts of the report (default: %(default)s)",
    )
    parser.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> None:
    need("compare", "report", {"rich": "rich", "yaml": "PyYAML"})
    from rich.console import Console

    from curvwatch.report.logs import read_runs
    from curvwatch.report.summary import UserMetric
    from curvwatch.report.terminal import print_comparison

    runs, problems = read_runs(arguments.runs)
    if not any(run.curves for run in runs):
        raise CurvwatchError("\n".join(["no run could be read", *_problem_lines(runs, problems)]))
    metrics = [
        UserMetric(name.removesuffix(":max"), name.endswith(":max")) for name in arguments.metric
    ]
    for metric in metrics:
        if not any(metric.name in run.curves for run in runs):
            problems.append(f"--metric {metric.name}: no run has logged it")
    console = Console(highlight=False)
    print_comparison(runs, problems, console=console, metrics=metrics)
    if arguments.output is not None:
        need("compare -o", "report", {"jinja2": "Jinja2"})
        from curvwatch.report.html import write_report

        try:
            write_report(runs, arguments.output, x=arguments.x, metrics=metrics, problems=problems)
        except OSError as error:
            raise CurvwatchError(f"the report cannot be written: {printable(error)}") from error
        console.print(f"\nThe report is in {printable(arguments.output)}", markup=False, soft_wrap=True)


def add_show(commands: Any) -> None:
    """`curvwatch show`."""
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


def _show(arguments: argparse.Namespace) -> None:
    need("show", "report", {"rich": "rich", "yaml": "PyYAML", "plotext": "plotext"})
    from rich.console import Console

    from curvwatch.report.terminal import follow, show

    (follow if arguments.follow else show)(arguments.run_path, console=Console(highlight=False))


def add_advise(commands: Any) -> None:
    """`curvwatch advise`."""
    parser = commands.add_parser(
        "advise",
        help="what the readings of a run say about its learning rate",
        description="The largest constant learning rate that the landscape of a run supports, when "
        "to warm up to it if at all, and the evidence. Reads the logs that `curvwatch compare` reads; "
        "a run of some hundred steps at a small learning rate is enough.",
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="a run, or a folder with runs anywhere below"
    )
    parser.set_defaults(run=_advise)


def _advise(arguments: argparse.Namespace) -> None:
    need("advise", "report", {"yaml": "PyYAML"})
    from curvwatch.report.logs import read_runs
    from curvwatch.results.advice import advise_curves

    runs, problems = read_runs(arguments.runs)
    lines = _problem_lines(runs, problems)
    if not any(run.curves for run in runs):
        raise CurvwatchError("\n".join(["no run could be read", *lines]))
    for run in runs:
        advice = advise_curves(run.curves, doubtful=run.doubtful)
        text = [printable(line) for line in str(advice).splitlines()]
        print("\n".join([printable(run.name), *(f"  {line}".rstrip() for line in text)]))
    for line in lines:
        print(line, file=sys.stderr)


def _problem_lines(runs: Sequence[LoggedRun], problems: Sequence[str]) -> list[str]:
    """Problems of each run, with its path, then those that belong to none."""
    return [f"{printable(run.path)}: {line}" for run in runs for line in run.problems] + [*problems]
