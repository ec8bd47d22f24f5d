"""The table of `curvwatch compare`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from curvwatch.compare.run import LoggedRun
from curvwatch.compare.summary import LAST_READINGS, LOSS, PROBE_LOSS, Summary, Wanted, summarize
from curvwatch.compare.text import number, printable

# below, numbers have a digit less; where the table still does not fit, each run is told by itself
_WIDE, _NAME = 100, 6
_LEGEND = (
    f"* best of its column: the lowest, the latest first step over the edge. Sharpness: median of the "
    f"last {LAST_READINGS} readings. Over edge: share of readings with a stability ratio over 1. "
    "Directional sharpness and gradient correlation: medians. Cost: share of the training time, or "
    "seconds. Several optimizers: the worst of them. -: not in the log."
)


class Column(NamedTuple):
    """One column of the table.

    Attributes:
        title: its two lines.
        value: of a run; None where it is missing.
        written: as text; with so many digits, where it has any to spare.
        best: of several values.
    """

    title: tuple[str, str]
    value: Callable[[Summary], float | None]
    written: Callable[[float, int], str] = number
    best: Callable[..., float] = min
    digits: int = 3


def _columns(loss: Wanted, others: Sequence[Wanted]) -> list[Column]:
    of = "loss" if loss.name == LOSS else loss.name
    best = max if loss.largest else min
    columns = [
        Column((of, "last"), lambda s: s.final_loss, number, best, 4),
        Column((of, "best"), lambda s: s.best_loss, number, best, 4),
    ]
    for i, other in enumerate(others):
        best = max if other.largest else min
        columns += [
            Column((other.name, "last"), lambda s, i=i: s.others[i].last, number, best, 4),  # type: ignore[misc]
            Column((other.name, "best"), lambda s, i=i: s.others[i].best, number, best, 4),  # type: ignore[misc]
        ]
    return [
        *columns,
        Column(("sharp-", "ness"), lambda s: s.sharpness),
        Column(("over", "edge"), lambda s: s.over_edge, _share),
        Column(("first", "over"), lambda s: s.first_over, _step, max),
        Column(("dir.", "sharp."), lambda s: s.directional_sharpness),
        Column(("grad.", "corr."), lambda s: s.gradient_correlation),
        Column(("", "alerts"), lambda s: s.alerts, lambda n, _: str(int(n))),
    ]


def print_comparison(
    runs: Sequence[LoggedRun],
    problems: Sequence[str],
    *,
    console: Console,
    metrics: Sequence[Wanted] = (),
) -> None:
    """A row a run, the best of each column marked, and below what is wrong with the logs.

    Args:
        runs: with any names.
        problems: that belong to no run.
        console: where to print.
        metrics: the first is the loss of the table, in place of the loss on the probe; further ones
            get columns of their own.
    """
    loss, others = (metrics[0], metrics[1:]) if metrics else (PROBE_LOSS, ())
    summaries = [summarize(run, loss, others) for run in runs]
    columns = _columns(loss, others)
    saved = 0 if console.width >= _WIDE else 1
    cells = [
        [_cell(column, s, summaries, saved) for column in columns] + [_cost_cell(s, summaries)]
        for s in summaries
    ]
    titles = [*(column.title for column in columns), ("", "cost")]
    # names may take several lines, numbers may not
    least = _table(["x" * _NAME for _ in summaries], titles, cells)
    if Measurement.get(console, console.options.update_width(10**4), least).minimum <= console.width:
        console.print(_table([summary.name for summary in summaries], titles, cells))
    else:
        _print_blocks(summaries, titles, cells, console)
    console.print(Text(_LEGEND, "dim"))
    if any(run.problems for run in runs) or problems:
        console.print()
    for run in runs:
        for problem in run.problems:
            told = ((printable(run.name), "bold"), ": ", printable(problem))
            console.print(Text.assemble(*told), soft_wrap=False)
    for problem in problems:
        console.print(Text(printable(problem)))


def _table(
    names: Sequence[str],
    titles: Sequence[tuple[str, str]],
    cells: Sequence[Sequence[Text]],
) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("\nrun", overflow="fold", min_width=_NAME)
    for i, (first, second) in enumerate(titles):
        # the name of a metric may take several lines, a number may not
        parts = [first[i : i + 12] for i in range(0, len(first), 12)] or [""]
        head = Text("\n".join([*map(printable, parts), second]), justify="right")
        widest = max(*map(len, head.plain.split("\n")), *(row[i].cell_len for row in cells))
        table.add_column(head, justify="right", no_wrap=True, min_width=widest)
    for name, row in zip(names, cells, strict=True):
        table.add_row(Text(printable(name), "bold"), *row)
    return table


def _print_blocks(
    summaries: Sequence[Summary],
    titles: Sequence[tuple[str, str]],
    cells: Sequence[Sequence[Text]],
    console: Console,
) -> None:
    """Each run by itself, a line a number, for narrow terminals."""
    for summary, row in zip(summaries, cells, strict=True):
        console.print(Text(printable(summary.name), "bold"))
        for (first, second), cell in zip(titles, row, strict=True):
            title = f"{first}{'' if first.endswith('-') or not first else ' '}{second}"
            title = printable(title.replace("sharp-ness", "sharpness"))
            console.print(Text.assemble(f"  {title}: ", cell))


def _cell(column: Column, summary: Summary, summaries: Sequence[Summary], saved: int = 0) -> Text:
    value = column.value(summary)
    if value is None:
        return Text("- ", "dim")
    if math.isnan(value):
        return Text("nan ", "red")
    known = [v for s in summaries if (v := column.value(s)) is not None]
    numbers = [v for v in known if not math.isnan(v)]
    digits = column.digits - saved
    text = column.written(value, digits)
    # compared as they are shown: logs round in different ways
    differ = len({column.written(v, digits) for v in known}) > 1
    if differ and text == column.written(column.best(numbers), digits):
        return Text(text + "*", "bold green")
    return Text(text + " ")


def _cost_cell(summary: Summary, summaries: Sequence[Summary]) -> Text:
    """Shares are compared with shares; seconds stand where there is no share."""
    if summary.cost_share is not None or summary.cost_seconds is None:
        return _cell(Column(("", "cost"), lambda s: s.cost_share, _share), summary, summaries)
    return Text(f"{number(summary.cost_seconds)} s ")


def _share(value: float, _: int) -> str:
    if not math.isfinite(value):
        return str(value)
    return "<1%" if 0 < value < 0.005 else f"{value:.0%}"


def _step(value: float, _: int) -> str:
    return "never" if math.isinf(value) else f"{value:.0f}"
