"""The report as a page."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from curvwatch.report.html.cells import SHADES, heat_payload
from curvwatch.report.html.payload import payload
from curvwatch.report.logs import LoggedRun
from curvwatch.report.sections import Section, sections_of
from curvwatch.report.summary import UserMetric
from curvwatch.report.table import LEGEND, compare
from curvwatch.report.text import printable

UPLOT = "1.6.32"
# after six colours the next six runs have the same ones, dashed
COLOURS = 6
DASHES: tuple[tuple[int, ...], ...] = ((), (9, 4), (3, 3), (9, 3, 2, 3))
# of the second, the third and the fourth metric of one chart
LINES: tuple[tuple[int, ...], ...] = ((), (12, 4), (2, 3), (8, 3, 2, 3))
_SCALES = {"linear": "", "log": " (log axis)", "asinh": " (log axis in both directions)"}


def write_report(
    runs: Sequence[LoggedRun],
    path: Path,
    *,
    x: str = "step",
    metrics: Sequence[UserMetric] = (),
    problems: Sequence[str] = (),
) -> None:
    """One HTML file with table, charts and alerts of `runs`; it loads nothing.

    Args:
        runs: with any names; those without curves are in the table alone.
        path: of the file.
        x: what is drawn over: "step", "time" or "epoch".
        metrics: the first is the loss of the table; all get a column and a chart.
        problems: that belong to no run.

    Raises:
        OSError: the file cannot be written.
    """
    path.write_text(render(runs, x=x, metrics=metrics, problems=problems), encoding="utf-8")


def render(
    runs: Sequence[LoggedRun], *, x: str, metrics: Sequence[UserMetric], problems: Sequence[str]
) -> str:
    """The page of `write_report`."""
    sections, left_out = sections_of(runs, [wanted.name for wanted in metrics])
    charts = [chart for section in sections for chart in section.charts]
    heat_maps = [heat for section in sections for heat in section.heat_maps]
    data = payload(runs, charts, x)
    drawn = [{line["run"] for line in panel["lines"] if line["x"]} for panel in data["panels"]]
    styles = {"uplot_css": _file("uplot/uPlot.min.css"), "css": _file("page.css")}
    scripts = {"uplot_js": _file("uplot/uPlot.iife.min.js"), "js": _file("page.js")}
    environment = Environment(
        loader=PackageLoader("curvwatch.report.html", ""), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["printable"] = printable
    return environment.get_template("page.html.jinja").render(
        **{name: Markup(text) for name, text in (styles | scripts).items()},
        policy=_policy(list(styles.values()), list(scripts.values())),
        version=version("curvwatch"),
        uplot_version=UPLOT,
        colours=COLOURS,
        dashes=DASHES,
        table=compare(runs, metrics),
        legend=LEGEND,
        problems=_problems(runs, problems),
        x=x,
        thinned=data["thinned"],
        sections=_number_charts(sections),
        left_out=left_out,
        scales=[_SCALES[panel["scale"]] for panel in data["panels"]],
        lines=[panel["lines"] for panel in data["panels"]],
        with_errors=any("error" in line for panel in data["panels"] for line in panel["lines"]),
        with_depth=any("depth" in line for panel in data["panels"] for line in panel["lines"]),
        missing=[[r.name for i, r in enumerate(runs) if r.curves and i not in has] for has in drawn],
        alerts=[(run.name, alert) for run in runs for alert in run.alerts],
        sources=[(r.name, r.path, r.kind, _settings(r)) for r in runs],
        data=data
        | {"colours": COLOURS, "dashes": DASHES, "lines": LINES, "shades": SHADES}
        | {"heats": [heat_payload(heat, x) for heat in heat_maps]},
    )


def _number_charts(sections: Sequence[Section]) -> list[tuple[str, list[Any], list[Any]]]:
    """Title, heat maps and charts of each section, with their numbers on the page."""
    heat_maps, charts = count(), count()
    return [
        (
            s.title,
            list(zip(s.heat_maps, heat_maps, strict=False)),
            list(zip(s.charts, charts, strict=False)),
        )
        for s in sections
    ]


def _problems(runs: Sequence[LoggedRun], others: Sequence[str]) -> list[tuple[list[str], str]]:
    """Each with the names of the runs that have it."""
    names_of: dict[str, list[str]] = {}
    for run in runs:
        for problem in run.problems:
            names_of.setdefault(problem, []).append(run.name)
    return [*((names, problem) for problem, names in names_of.items()), *(([], p) for p in others)]


def _settings(run: LoggedRun) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(run.hyperparameters.items()))


def _policy(styles: Sequence[str], scripts: Sequence[str]) -> str:
    """Nothing is loaded, and only the page's own styles and scripts run."""

    def hashes(texts: Sequence[str]) -> str:
        digests = (hashlib.sha256(text.encode()).digest() for text in texts)
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    return f"default-src 'none'; style-src {hashes(styles)}; script-src {hashes(scripts)}"


def _file(name: str) -> str:
    # a browser hashes what it reads, with line ends made \n
    resource: Any = files("curvwatch.report.html")
    return str(resource.joinpath(*name.split("/")).read_text(encoding="utf-8")).replace("\r\n", "\n")
