"""`curvwatch show`: one run in the terminal, once or for as long as it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from curvwatch.charts import Chart
from curvwatch.errors import CurvwatchError
from curvwatch.report.heat_maps import RunHeatMap
from curvwatch.report.logs import FoundRun, LoggedRun, find_runs, read_run, short_names
from curvwatch.report.sections import sections_of
from curvwatch.report.summary import variant_names
from curvwatch.report.terminal.charts import draw, draw_heat
from curvwatch.report.text import number, printable

_WORDS = {
    "curvature/loss": "loss on the probe",
    "curvature/stability_ratio": "stability ratio (1 is the edge)",
    "curvature/effective_sharpness": "effective sharpness",
    "curvature/effective_edge": "edge of this optimizer",
    "curvature/sharpness": "sharpness",
    "curvature/edge": "its edge, 2/lr",
    "step/stability_ratio": "stability ratio of the step (over 1 it overshoots)",
    "step/directional_sharpness": "directional sharpness",
    "step/gradient_correlation": "gradient correlation",
    "step/loss_change": "change of the batch's loss",
    "step/relative_loss_change": "the same, relative to the loss",
    "curvature/cost_share": "share of the time for readings",
}
_TWO_COLUMNS, _CHART_HEIGHT, _HEAT_HEIGHT, _LAST_ALERTS = 100, 9, 16, 5


def show(path: Path, *, console: Console) -> None:
    """Print the run at `path`.

    Raises:
        CurvwatchError: there is no run, or several, or nothing can be read.
    """
    run = _read_one(path)
    if not run.curves:
        raise CurvwatchError(f"{printable(path)}: " + "; ".join(run.problems))
    console.print(view(run, console=console))


def follow(
    path: Path,
    *,
    console: Console,
    wait: Callable[[float], object] = time.sleep,
    every: float = 1.0,
) -> None:
    """Show the run at `path`, and again whenever its files change, until Ctrl-C.

    Args:
        path: of the run, which need not have begun.
        console: where to show it.
        wait: sleeps for so many seconds.
        every: seconds between two checks of the files.

    Raises:
        CurvwatchError: there are several runs.
    """
    drawn: object = None
    waiting = Text(f"{printable(path)}: no readings yet; Ctrl-C ends")
    with Live(waiting, console=console, auto_refresh=False, vertical_overflow="crop") as live:
        try:
            while True:
                found = _find_one(path) if path.exists() else None
                state = (*console.size, _state(found) if found else None)
                if found and state != drawn:
                    run = read_run(found, *short_names([found.path]))
                    shown = view(run, console=console, height=console.height) if run.curves else waiting
                    live.update(shown, refresh=True)
                drawn = state
                wait(every)
        except KeyboardInterrupt:
            return


def view(run: LoggedRun, *, console: Console, height: int | None = None) -> RenderableType:
    """Latest values, charts, alerts and problems of `run`, in `height` lines where it is given."""
    head = Text.assemble((printable(run.name), "bold"), f"  {run.kind}, {printable(run.path)}")
    head.truncate(console.width, overflow="crop")
    foot: list[RenderableType] = []
    foot += [Text(f"{len(run.alerts)} alerts", "bold red")] if run.alerts else []
    for alert in run.alerts[-_LAST_ALERTS:]:
        foot.append(Text(f"step {alert.step}, {printable(alert.rule)}: {printable(alert.text)}", "red"))
    foot += [Text(printable(problem), "yellow") for problem in run.problems]
    values = _latest(run, None if height is None else height // 4)
    columns = 2 if console.width >= _TWO_COLUMNS else 1
    rows = None
    if height is not None:
        taken = 1 + values.row_count + sum(len(console.render_lines(line)) for line in foot)
        rows = max(1, (height - taken - 1) // (_CHART_HEIGHT + 1))
    return Group(head, values, _grid(run, console, columns, rows), *foot)


def _grid(run: LoggedRun, console: Console, columns: int, rows: int | None) -> Table:
    width = (console.width - (columns - 1) * 2) // columns
    unicode = console.encoding.lower().startswith("utf")
    sections, _ = sections_of(
        [run], rows=(_HEAT_HEIGHT if rows is None else _CHART_HEIGHT) - 1, columns=width
    )
    charts: list[RunHeatMap | Chart] = []
    for section in sections:
        charts += [*section.heat_maps, *section.charts]
    drawn = [
        draw_heat(chart, width, unicode=unicode)
        if isinstance(chart, RunHeatMap)
        else draw(run, chart, width, _CHART_HEIGHT, unicode=unicode)
        for chart in charts[: None if rows is None else rows * columns]
    ]
    grid = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    for begin in range(0, len(drawn), columns):
        grid.add_row(*drawn[begin : begin + columns])
    return grid


def _latest(run: LoggedRun, most: int | None) -> Table:
    """The last value of each metric in words; "-" for one that is missing."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for metric, words in _WORDS.items():
        for name in variant_names(run, metric)[: None if most is None else most - table.row_count]:
            curve = run.curves[name]
            value = float(curve.values[-1])
            text = "-" if np.isnan(value) else number(value, 4)
            of = printable(name[len(metric) :])
            where = Text.assemble(f"{words}{of} ", (f"at step {curve.steps[-1]}", "dim"))
            table.add_row(Text(text, "bold"), where)
    return table


def _read_one(path: Path) -> LoggedRun:
    found = _find_one(path)
    if found is None:
        raise CurvwatchError("; ".join(find_runs([path])[1]))
    return read_run(found, *short_names([found.path]))


def _find_one(path: Path) -> FoundRun | None:
    found, _ = find_runs([path])
    if len(found) > 1:
        some = ", ".join(printable(run.path) for run in found[:5])
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise CurvwatchError(f"{printable(path)} has {len(found)} runs; name one: {some}{more}")
    return found[0] if found else None


def _state(found: FoundRun) -> tuple[tuple[str, int, int], ...]:
    """Changes whenever a file does."""
    stats = [(file, file.stat()) for _, files in found.logs for file in files if file.exists()]
    return tuple((str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats)
