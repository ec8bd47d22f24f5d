"""The table of `curvwatch compare` in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from curvwatch.report.logs import LoggedRun
from curvwatch.report.summary import UserMetric
from curvwatch.report.table import LEGEND, Cell, RunTable, compare
from curvwatch.report.text import printable

# in narrower terminals numbers have a digit less; if that does not fit, each run is printed by itself
_WIDE, _NAME = 100, 6


def print_comparison(
    runs: Sequence[LoggedRun],
    problems: Sequence[str],
    *,
    console: Console,
    metrics: Sequence[UserMetric] = (),
) -> None:
    """A row a run, the best of each column marked, and below what is wrong with the logs.

    Args:
        runs: with any names.
        problems: that belong to no run.
        console: where to print.
        metrics: the first is the loss of the table, in place of the loss on the probe; further ones
            get columns of their own.
    """
    content = compare(runs, metrics, saved=0 if console.width >= _WIDE else 1)
    # names may take several lines, numbers may not
    least = _table(content._replace(names=["x" * _NAME for _ in content.names]))
    if Measurement.get(console, console.options.update_width(10**4), least).minimum <= console.width:
        console.print(_table(content))
    else:
        _print_blocks(content, console)
    console.print(Text("* " + LEGEND, "dim"))
    if any(run.problems for run in runs) or problems:
        console.print()
    for run in runs:
        for problem in run.problems:
            line = ((printable(run.name), "bold"), ": ", printable(problem))
            console.print(Text.assemble(*line), soft_wrap=False)
    for problem in problems:
        console.print(Text(printable(problem)))


def _table(content: RunTable) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("\nrun", overflow="fold", min_width=_NAME)
    cells = [[_text(cell) for cell in row] for row in content.rows]
    for i, (first, second) in enumerate(content.titles):
        # the name of a metric may take several lines, a number may not
        parts = [first[i : i + 12] for i in range(0, len(first), 12)] or [""]
        head = Text("\n".join([*map(printable, parts), second]), justify="right")
        widest = max(*map(len, head.plain.split("\n")), *(row[i].cell_len for row in cells))
        table.add_column(head, justify="right", no_wrap=True, min_width=widest)
    for name, row in zip(content.names, cells, strict=True):
        table.add_row(Text(printable(name), "bold"), *row)
    return table


def _print_blocks(content: RunTable, console: Console) -> None:
    """Each run by itself, a line a number, for narrow terminals."""
    for name, row in zip(content.names, content.rows, strict=True):
        console.print(Text(printable(name), "bold"))
        for (first, second), cell in zip(content.titles, row, strict=True):
            title = f"{first}{'' if first.endswith('-') or not first else ' '}{second}"
            title = printable(title.replace("sharp-ness", "sharpness"))
            console.print(Text.assemble(f"  {title}: ", _text(cell)))


def _text(cell: Cell) -> Text:
    if cell.value is None:
        return Text("- ", "dim")
    if cell.text == "nan":
        return Text("nan ", "red")
    return Text(cell.text + "*", "bold green") if cell.best else Text(cell.text + " ")
