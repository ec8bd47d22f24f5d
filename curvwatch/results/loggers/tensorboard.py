"""TensorBoard: a Custom Scalars page, alerts as a table, a figure, and the HParams page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from curvwatch.charts import (
    ERRORS,
    SECTIONS,
    Chart,
    errors_of,
    half_widths,
    has_place,
    is_shown,
    match,
    names_of,
    regex,
)
from curvwatch.charts.histogram import Histogram
from curvwatch.results.alerts import Alert


def has_margin(metric: str) -> bool:
    """Whether values of `metric` get curves below and above them; those of layers would be too many."""
    return metric in ERRORS and not has_place(metric)


def low_of(name: str) -> str:
    """The curve below that of the metric `name`, which may have the suffix of an optimizer."""
    metric, dash, optimizer = name.partition("-")
    return f"{metric}_low{dash}{optimizer}"


def high_of(name: str) -> str:
    """The curve above it."""
    metric, dash, optimizer = name.partition("-")
    return f"{metric}_high{dash}{optimizer}"


def margins(values: Mapping[str, float]) -> dict[str, float]:
    """Lower and upper bounds of each of `values` whose error is known; nan where it is missing.

    That of sharpness is the solver's bound, `residual` x sharpness, and on top, where the probe has
    several batches, two standard errors of their mean: how far the whole loss may be from the probe.
    """
    bounds = {}
    for name, value in values.items():
        if has_margin(name.partition("-")[0]):
            errors = errors_of(name)
            others = {
                of: np.array([values[of]]) for e in errors for of in (e.metric, e.per) if of in values
            }
            error = float(half_widths(np.array([value]), errors, others)[0])
            bounds[low_of(name)], bounds[high_of(name)] = value - error, value + error
    return bounds


def is_tensorboard(experiment: Any) -> bool:
    """Whether `experiment` is a SummaryWriter."""
    return hasattr(type(experiment), "add_custom_scalars")


def layout(metrics: Iterable[str]) -> dict[str, dict[str, list[Any]]]:
    """The Custom Scalars page of a run with `metrics`: no chart stays empty.

    TensorBoard joins the pages of several runs by titles, and overlays charts that are the same. A row
    has three charts; it cannot be told to take a logarithmic axis.
    """
    metrics = list(metrics)
    page: dict[str, dict[str, list[Any]]] = {}
    for section, charts in SECTIONS.items():
        for chart in charts:
            if is_shown(chart, metrics):
                page.setdefault(section, {}).update(_laid_out(chart, metrics))
    return page


def _laid_out(chart: Chart, metrics: Sequence[str]) -> dict[str, list[Any]]:
    """`chart` by title: lines, or of a single metric with an error lines with margins."""
    if not (len(chart.metrics) == 1 and has_margin(chart.metrics[0])):
        return {chart.title: ["Multiline", [regex(metric) for metric in chart.metrics]]}
    found = {}
    for name in names_of(chart.metrics[0], metrics):  # such a chart takes exact names, of one optimizer
        agreed = match(chart.metrics[0], name)
        whose = f" ({agreed.suffix[1:]})" if agreed and agreed.suffix else ""
        found[chart.title + whose] = ["Margin", [name, low_of(name), high_of(name)]]
    return found


def write_layout(experiment: Any, metrics: Iterable[str]) -> None:
    """Lay out the Custom Scalars page."""
    if page := layout(metrics):
        experiment.add_custom_scalars(page)


def alert_table(alerts: Sequence[Alert]) -> str:
    """`alerts` as a Markdown table."""
    rows = ["| step | rule | metric | value | meaning |", "|---:|---|---|---:|---|"]
    for a in alerts:
        cells = (str(a.step), a.rule, a.metric, f"{a.value:.4g}", a.text)
        rows.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    """`text` as it reads, on one line."""
    visible = "".join(c if c.isprintable() else " " for c in text)
    visible = visible.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", visible)


def write_alerts(experiment: Any, alerts: Sequence[Alert]) -> None:
    """Show all `alerts` so far in one table on the Text page."""
    experiment.add_text("curvwatch/alerts", alert_table(alerts), alerts[-1].step)


def write_histograms(experiment: Any, histograms: Mapping[str, Histogram], step: int) -> None:
    """Show distributions on the Histograms page."""
    for name, histogram in histograms.items():
        edges, weights = histogram.edges, histogram.weights
        middles, total = (edges[:-1] + edges[1:]) / 2, float(weights.sum())
        experiment.add_histogram_raw(
            name,
            min=float(edges[0]),
            max=float(edges[-1]),
            num=total,
            sum=float(weights @ middles),
            sum_squares=float(weights @ middles**2),
            bucket_limits=edges[1:].tolist(),
            bucket_counts=weights.tolist(),
            global_step=step,
        )


def write_image(experiment: Any, name: str, image: np.ndarray, step: int) -> None:
    """Show a figure of the run, shape (height, width, 3), on the Images page."""
    experiment.add_image(name, image, step, dataformats="HWC")
