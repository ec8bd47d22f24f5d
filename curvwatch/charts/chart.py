"""What a chart is, and which metrics are on it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

# stand for a layer, an optimizer, a matrix and a number in the metrics of a chart
LAYER, OTHER, MATRIX, NUMBER = "<layer>", "<optimizer>", "<matrix>", "<i>"
_PLACES = {LAYER: "(.+)", OTHER: "([^/]+)", MATRIX: "([^/]+)", NUMBER: r"(\d+)"}
# behind a name: of an optimizer, and of a group of its weights, which no metric with a place has
_OPTIMIZER, _GROUP = "(-[^/]*)?", "(/[^/]*)?"


class Chart(NamedTuple):
    """One chart, on dashboards, in the report and in the terminal.

    Attributes:
        title: what is shown.
        how: one line that says how to read it.
        metrics: its lines, names without suffix; "<layer>", "<optimizer>", "<matrix>" and "<i>" stand
            for any.
        level: a line across, which the curves are read against.
        log: whether runs may lie powers of ten apart, so that a logarithmic axis is needed.
        lines: what each of `metrics` is called on the chart; "": nothing.
        needs: the chart is shown where a run has any of these; (): any of `metrics`.
        headline: the title in the report and in the terminal, where it is another.
        boards_only: whether TensorBoard and W&B alone show it: elsewhere another chart says it, too.
    """

    title: str
    how: str
    metrics: tuple[str, ...]
    level: float | None = None
    log: bool = False
    lines: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    headline: str = ""
    boards_only: bool = False

    @property
    def is_of_layers(self) -> bool:
        """Whether there is a line for each layer."""
        return any(LAYER in metric for metric in self.metrics)


def has_place(metric: str) -> bool:
    """Whether `metric` stands for those of several layers, optimizers, matrices or numbers."""
    return bool(_split_at_place(metric)[1])


def placed(metric: str, place: str) -> str:
    """`metric` with `place`, such as the name of a layer, where it has one."""
    _, mark = _split_at_place(metric)
    return metric.replace(mark, place) if mark else metric


class Match(NamedTuple):
    """How the name of a metric agrees with one of a chart's metrics.

    Attributes:
        place: what stands where the metric has a place, such as the name of a layer; "": it has none.
        suffix: of an optimizer or group, with its "-" or "/"; "" where it has none.
    """

    place: str
    suffix: str


def match(metric: str, name: str) -> Match | None:
    """How `name` is one of `metric`; None: it is another's.

    Example:
        >>> match("curvature/layer/<layer>/sharpness", "curvature/layer/net.0/sharpness-Adam")
        Match(place='net.0', suffix='-Adam')
    """
    head, place = _split_at_place(metric)
    if not place:
        suffix = name[len(metric) :]
        is_one = name.startswith(metric) and (not suffix or suffix[0] in "-/")
        return Match("", suffix) if is_one else None
    found = _compiled_regex(metric).fullmatch(name) if name.startswith(head) else None
    return Match(found[1], found[2] or "") if found else None


def names_of(metric: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that are of `metric`, in order; numbered ones by their numbers."""
    found = [(name, m) for name in names if (m := match(metric, name))]
    if NUMBER in metric:
        found.sort(key=lambda pair: (int(pair[1].place), pair[1].suffix))
    return [name for name, _ in found]


def is_shown(chart: Chart, names: Iterable[str]) -> bool:
    """Whether a run with the metrics `names` has `chart`."""
    names = list(names)
    return any(match(metric, name) for metric in chart.needs or chart.metrics for name in names)


def regex(metric: str) -> str:
    """A regular expression of the names of `metric`, for programs that are not Python, too."""
    head, place = _split_at_place(metric)
    if not place:
        return f"^{re.escape(metric)}{_OPTIMIZER}{_GROUP}$"
    tail = metric[len(head) + len(place) :]
    return f"^{re.escape(head)}{_PLACES[place]}{re.escape(tail)}{_OPTIMIZER}$"


@cache
def _split_at_place(metric: str) -> tuple[str, str]:
    """The text before a place such as "<layer>", and the place; ("", "") where there is none."""
    for place in _PLACES:
        if place in metric:
            return metric.partition(place)[0], place
    return "", ""


@cache
def _compiled_regex(metric: str) -> re.Pattern[str]:
    return re.compile(regex(metric), re.DOTALL)
