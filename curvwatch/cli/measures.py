"""`curvwatch measures`: the list of all measures and presets."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from curvwatch.cli.arguments import need
from curvwatch.errors import CurvwatchError
from curvwatch.measures import DEFAULT_MEASURES, MEASURES, Measure
from curvwatch.measures.docs import describe
from curvwatch.measures.presets import PRESETS
from curvwatch.report.text import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def add_measures(commands: Any) -> None:
    """`curvwatch measures`."""
    parser = commands.add_parser(
        "measures",
        help="list all measures and presets: what they read, what it costs, where it comes from",
        description="Each measure with its metrics, its price in gradients and Hessian-vector "
        "products, and its source. CurvatureMonitor(['sharpness', ...]) takes these names. "
        "CurvatureMonitor.preset(...) takes those of the presets, which are sets of measures.",
    )
    parser.add_argument("names", nargs="*", metavar="MEASURE", help="print these alone")
    parser.add_argument("--brief", action="store_true", help="one line for each measure")
    parser.set_defaults(run=_measures)


def _measures(arguments: argparse.Namespace) -> None:
    need("measures", "report", {"rich": "rich"})
    from rich.console import Console

    unknown = [name for name in arguments.names if name not in MEASURES]
    if unknown:
        raise CurvwatchError(f"{printable(unknown[0])}: one of {', '.join(MEASURES)} is needed")
    print_measures(arguments.names, console=Console(highlight=False), brief=arguments.brief)


def print_measures(names: Sequence[str], *, console: Console, brief: bool = False) -> None:
    """Print the measures called `names`, each with its metrics; without names, all, and the presets.

    Args:
        names: of measures.
        console: where to print.
        brief: print one line for each measure instead.
    """
    from rich.table import Table
    from rich.text import Text

    measures = {name: MEASURES[name] for name in names or MEASURES}
    if brief:
        console.print(_table(measures))
    else:
        for measure in measures.values():
            _print_whole(measure, console)
    if names:
        return
    console.print(
        "\nThose marked (on) are the measures of CurvatureMonitor(). Those marked (expensive) have a "
        "third of the budget for themselves, and a cadence of their own.\n"
        "`curvwatch measures --brief` prints one line for each.\n"
    )
    presets = Table("preset", "measures", "price", box=None, pad_edge=False, row_styles=("", "dim"))
    for name, preset in PRESETS.items():
        whole = list(preset.measures) == list(MEASURES)
        names_of = "all of them" if whole else ", ".join(preset.measures)
        presets.add_row(Text(name), Text(f"{preset.what}: {names_of}"), Text(preset.price))
    console.print(presets)
    console.print('\n`CurvatureMonitor.preset("study")` makes a monitor with the measures of a preset.')


def _table(measures: Mapping[str, type[Measure]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("measure", "what", "price", box=None, pad_edge=False, row_styles=("", "dim"))
    for measure in measures.values():
        docs = describe(measure)
        table.add_row(Text(_label(measure)), Text(docs.what), Text(_first_sentence(docs.price)))
    return table


def _label(measure: type[Measure]) -> str:
    on = " (on)" if measure in DEFAULT_MEASURES else " (expensive)" if measure.expensive else ""
    return measure.name + on


def _print_whole(measure: type[Measure], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    docs = describe(measure)
    console.print(Text(_label(measure), style="bold"))
    console.print(Text(docs.what))
    table = Table("metric", "value", box=None, pad_edge=False)
    for name, meaning in docs.metrics:
        table.add_row(Text(name), Text(meaning))
    console.print(table)
    console.print(Text(f"Price: {docs.price}"))
    console.print(Text(f"Source: {docs.source}\n"))


def _first_sentence(text: str) -> str:
    sentence = text.split(". ")[0].rstrip(".") + "."
    return sentence[:1].upper() + sentence[1:]
