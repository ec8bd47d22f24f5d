"""The list of all measures."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from curvwatch.cli.arguments import need
from curvwatch.errors import CurvwatchError
from curvwatch.measures import DEFAULT_MEASURES, MEASURES, Measure
from curvwatch.measures.docs import described
from curvwatch.measures.presets import PRESETS
from curvwatch.report.text import printable


def print_measures(names: Sequence[str], *, console: Console, brief: bool = False) -> None:
    """Print the measures called `names`, all there are by default, each with its metrics.

    And the presets, where no names are given.

    Args:
        names: of measures.
        console: where to.
        brief: print a line of each instead.
    """
    chosen = {name: MEASURES[name] for name in names or MEASURES}
    if brief:
        console.print(_table(chosen))
    else:
        for measure in chosen.values():
            _print_whole(measure, console)
    if names:
        return
    console.print(
        "\nOn are those of CurvatureMonitor(). The dear ones have a third of the budget for themselves "
        "and a cadence of their own.\n`curvwatch measures --brief` has a line of each.\n"
    )
    presets = Table("preset", "measures", "price", box=None, pad_edge=False, row_styles=("", "dim"))
    for name, preset in PRESETS.items():
        whole = list(preset.measures) == list(MEASURES)
        measures = "all of them" if whole else ", ".join(preset.measures)
        presets.add_row(Text(name), Text(f"{preset.what}: {measures}"), Text(preset.price))
    console.print(presets)
    console.print('\n`CurvatureMonitor.preset("study")` has the measures of a preset.')


def _table(measures: Mapping[str, type[Measure]]) -> Table:
    table = Table("measure", "what", "price", box=None, pad_edge=False, row_styles=("", "dim"))
    for measure in measures.values():
        found = described(measure)
        table.add_row(Text(_marked(measure)), Text(found.what), Text(_first_sentence(found.price)))
    return table


def _marked(measure: type[Measure]) -> str:
    on = " (on)" if measure in DEFAULT_MEASURES else " (dear)" if measure.expensive else ""
    return measure.name + on


def _print_whole(measure: type[Measure], console: Console) -> None:
    found = described(measure)
    console.print(Text(_marked(measure), style="bold"))
    console.print(Text(found.what))
    table = Table("metric", "value", box=None, pad_edge=False)
    for name, meaning in found.metrics:
        table.add_row(Text(name), Text(meaning))
    console.print(table)
    console.print(Text(f"Price: {found.price}"))
    console.print(Text(f"Source: {found.source}\n"))


def _first_sentence(text: str) -> str:
    sentence = text.split(". ")[0].rstrip(".") + "."
    return sentence[:1].upper() + sentence[1:]


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

    from curvwatch.cli.measures import print_measures
    from curvwatch.measures import MEASURES

    unknown = [name for name in chosen.names if name not in MEASURES]
    if unknown:
        raise CurvwatchError(f"{printable(unknown[0])}: one of {', '.join(MEASURES)} is needed")
    print_measures(chosen.names, console=Console(highlight=False), brief=chosen.brief)
