"""The list of all measures."""

from __future__ import annotations

import argparse
from typing import Any

from curvwatch.cli.arguments import need
from curvwatch.errors import CurvwatchError
from curvwatch.report.text import printable


def add_measures(commands: Any) -> None:
    """`curvwatch measures`."""
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

    from curvwatch.cli.price_list import print_measures
    from curvwatch.measures import MEASURES

    unknown = [name for name in chosen.names if name not in MEASURES]
    if unknown:
        raise CurvwatchError(f"{printable(unknown[0])}: one of {', '.join(MEASURES)} is needed")
    print_measures(chosen.names, console=Console(highlight=False), brief=chosen.brief)
