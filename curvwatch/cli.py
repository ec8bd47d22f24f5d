"""The `curvwatch` command: one function for each sub-command that adds its arguments and runs it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from curvwatch import __version__
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


COMMANDS: tuple[Callable[[Any], None], ...] = (_add_demo,)
