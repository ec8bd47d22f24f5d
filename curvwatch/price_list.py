"""`curvwatch measures`: all measures and presets in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from curvwatch.measures import DEFAULT_MEASURES, MEASURES
from curvwatch.measures.described import Described, described
from curvwatch.presets import PRESETS


def print_measures(names: Sequence[str], *, console: Console) -> None:
    """Print the measures called `names` with their metrics; without names a line of each there is.

    And one of each preset.
    """
    if names:
        for name in names:
            _print_whole(described(MEASURES[name]), console)
        return
    table = Table("measure", "what", "price", box=None, pad_edge=False, row_styles=("", "dim"))
    for measure in MEASURES.values():
        found = described(measure)
        on = " (on)" if measure in DEFAULT_MEASURES else " (dear)" if measure.dear else ""
        table.add_row(Text(found.name + on), Text(found.what), Text(_first_sentence(found.price)))
    console.print(table)
    console.print(
        "\nOn are those of CurvatureMonitor(). The dear ones have a third of the budget for themselves "
        "and a cadence of their own.\n`curvwatch measures NAME` tells the metrics, the whole price and "
        "the source of a measure.\n"
    )
    presets = Table("preset", "measures", "price", box=None, pad_edge=False, row_styles=("", "dim"))
    for name, preset in PRESETS.items():
        whole = list(preset.measures) == list(MEASURES)
        measures = "all of them" if whole else ", ".join(preset.measures)
        presets.add_row(Text(name), Text(f"{preset.what}: {measures}"), Text(preset.price))
    console.print(presets)
    console.print('\n`CurvatureMonitor.preset("study")` has the measures of a preset.')


def _print_whole(found: Described, console: Console) -> None:
    console.print(Text(found.name, style="bold"))
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
