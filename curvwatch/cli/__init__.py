"""The `curvwatch` command: one function for each sub-command that adds its arguments and runs it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from curvwatch import __version__
from curvwatch.cli.landscape.arguments import add_interpolate, add_path, add_slice
from curvwatch.cli.measures import add_measures
from curvwatch.cli.runs import add_advise, add_compare, add_demo, add_show
from curvwatch.errors import CurvwatchError

COMMANDS: tuple[Callable[[Any], None], ...] = (
    add_demo,
    add_compare,
    add_show,
    add_advise,
    add_measures,
    add_slice,
    add_path,
    add_interpolate,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `curvwatch` with `arguments` (default: those of the process); the exit status."""
    try:
        try:
            return _run(arguments)
        finally:
            # here, where a pipe without a reader can be recognised: all may have stayed in the buffer
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return 1


def _run(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="curvwatch", description="Curvature of the loss while a network trains."
    )
    parser.add_argument("--version", action="version", version=f"curvwatch {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    parsed = parser.parse_args(arguments)
    try:
        parsed.run(parsed)
    # the library raises a ValueError for an option that is out of range
    except (CurvwatchError, ValueError) as error:
        print(f"curvwatch: {error}", file=sys.stderr)
        return 1
    return 0


def _reader_is_gone() -> bool:
    """Whether nobody reads what is printed, as behind `| head`; the rest is then discarded.

    See the note on SIGPIPE in the documentation of Python's module signal.
    """
    try:
        print(flush=True)  # a flush alone has nothing to write where a long text was given up
    except BrokenPipeError:
        # or the interpreter would complain when it flushes once more at its end
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return True
    return False
