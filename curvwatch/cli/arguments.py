"""What the sub-commands share: packages that they need, and values that they take."""

from __future__ import annotations

import argparse
from importlib.util import find_spec

from curvwatch.errors import CurvwatchError


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


def positive(text: str) -> int:
    """A positive whole number, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a positive whole number is needed")
    return int(text)
