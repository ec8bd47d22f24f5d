"""What the table of runs says, cell by cell, for the terminal and for the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from curvwatch.report.logs import LoggedRun
from curvwatch.report.summary import (
    LAST_READINGS,
    LOSS,
    PROBE_LOSS,
    Summary,
    UserMetric,
    summarize,
)
from curvwatch.report.text import number

LEGEND = (
    "best of its column: the lowest, the latest first step over the edge, of runs whose loss fell; "
    f"sharpness has none. Sharpness: median of the last {LAST_READINGS} readings. Over edge: share of "
    "readings with a stability ratio over 1. Directional sharpness and gradient correlation: medians. "
    "Cost: share of the training time, or seconds. Several optimizers: the worst of them. -: not in "
    "the log."
)


class Column(NamedTuple):
    """One column of the table.

    Attributes:
        title: its two lines.
        value: of a run; None where it is missing.
        written: as text; with so many digits, where it has any to spare.
        best: of several values.
        digits: of its numbers.
        merit: whether its best is worth a mark.
    """

    title: tuple[str, str]
    value: Callable[[Summary], float | None]
    written: Callable[[float, int], str] = number
    best: Callable[..., float] = min
    digits: int = 3
    merit: bool = True


class Cell(NamedTuple):
    """One number of a run.

    Attributes:
        text: how it is written; "-" where it is missing.
        value: to sort by; None where it is missing.
        best: whether it is the best of its column, and others are worse.
    """

    text: str
    value: float | None
    best: bool = False


class RunTable(NamedTuple):
    """The table.

    Attributes:
        titles: of the columns, each in two lines.
        names: of the runs.
        rows: the cells of each run.
    """

    titles: list[tuple[str, str]]
    names: list[str]
    rows: list[list[Cell]]


def compare(runs: Sequence[LoggedRun], metrics: Sequence[UserMetric] = (), saved: int = 0) -> RunTable:
    """The table of `runs`.

    Args:
        runs: with any names.
        metrics: the first is the loss of the table, in place of the loss on the probe; further ones
            get columns of their own.
        saved: how many digits fewer than usual each number has.
    """
    loss, others = (metrics[0], metrics[1:]) if metrics else (PROBE_LOSS, ())
    summaries = [summarize(run, loss, others) for run in runs]
    columns = _columns(loss, others)
    rows = [[_cell(c, s, summaries, saved) for c in columns] + [_cost(s, summaries)] for s in summaries]
    titles = [*(column.title for column in columns), ("", "cost")]
    return RunTable(titles, [summary.name for summary in summaries], rows)


def _columns(loss: UserMetric, others: Sequence[UserMetric]) -> list[Column]:
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
        Column(("sharp-", "ness"), lambda s: s.sharpness, merit=False),
        Column(("over", "edge"), lambda s: s.over_edge, _share),
        Column(("first", "over"), lambda s: s.first_over, _step, max),
        Column(("dir.", "sharp."), lambda s: s.directional_sharpness),
        Column(("grad.", "corr."), lambda s: s.gradient_correlation),
        Column(("", "alerts"), lambda s: s.alerts, lambda n, _: str(int(n))),
    ]


def _cell(column: Column, summary: Summary, summaries: Sequence[Summary], saved: int = 0) -> Cell:
    value = column.value(summary)
    if value is None or math.isnan(value):
        return Cell("-" if value is None else "nan", value)
    known = [v for s in summaries if (v := column.value(s)) is not None]
    numbers = [v for s in summaries if (v := column.value(s)) is not None and s.trained]
    numbers = [v for v in numbers if not math.isnan(v)]
    digits = column.digits - saved
    text = column.written(value, digits)
    # compared as they are shown: logs round in different ways
    differ = len({column.written(v, digits) for v in known}) > 1
    may_be_best = column.merit and differ and summary.trained
    return Cell(text, value, may_be_best and text == column.written(column.best(numbers), digits))


def _cost(summary: Summary, summaries: Sequence[Summary]) -> Cell:
    """Shares are compared with shares; seconds stand where there is no share."""
    if summary.cost_share is not None or summary.cost_seconds is None:
        return _cell(Column(("", "cost"), lambda s: s.cost_share, _share), summary, summaries)
    return Cell(f"{number(summary.cost_seconds)} s", summary.cost_seconds)


def _share(value: float, _: int) -> str:
    if not math.isfinite(value):
        return str(value)
    return "<1%" if 0 < value < 0.005 else f"{value:.0%}"


def _step(value: float, _: int) -> str:
    return "never" if math.isinf(value) else f"{value:.0f}"
