"""TensorBoard: a Custom Scalars page, error bands, alerts as a table, figures, and the HParams page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

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
from curvwatch.results.loggers.hyperparameters import Value
from curvwatch.results.loggers.plain import PlainDestination
from curvwatch.results.loggers.tensorboard_hparams import add_to_hparams


def has_error_band(metric: str) -> bool:
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


def error_bands(values: Mapping[str, float]) -> dict[str, float]:
    """Lower and upper bounds of each of `values` whose error is known; nan where it is missing.

    That of sharpness is the solver's bound, `residual` x sharpness, and on top, where the probe has
    several batches, two standard errors of their mean: how far the whole loss may be from the probe.
    """
    bounds = {}
    for name, value in values.items():
        if has_error_band(name.partition("-")[0]):
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
    has three charts; a logarithmic axis cannot be set.
    """
    metrics = list(metrics)
    page: dict[str, dict[str, list[Any]]] = {}
    for section, charts in SECTIONS.items():
        for chart in charts:
            if is_shown(chart, metrics):
                page.setdefault(section, {}).update(_laid_out(chart, metrics))
    return page


def _laid_out(chart: Chart, metrics: Sequence[str]) -> dict[str, list[Any]]:
    """`chart` by title: lines, or of a single metric with an error lines with error bands."""
    if not (len(chart.metrics) == 1 and has_error_band(chart.metrics[0])):
        return {chart.title: ["Multiline", [regex(metric) for metric in chart.metrics]]}
    found = {}
    for name in names_of(chart.metrics[0], metrics):  # such a chart takes exact names, of one optimizer
        agreed = match(chart.metrics[0], name)
        whose = f" ({agreed.suffix[1:]})" if agreed and agreed.suffix else ""
        found[chart.title + whose] = ["Margin", [name, low_of(name), high_of(name)]]
    return found


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


class TensorBoardDestination(PlainDestination):
    """A logger whose `experiment` is a SummaryWriter."""

    accepts_images: ClassVar[bool] = True

    @property
    def _writer(self) -> Any:
        return self._logger.experiment

    def announce(self, metrics: Sequence[str], hyperparameters: Mapping[str, Value]) -> None:
        """Lay out the Custom Scalars page."""
        if page := layout(metrics):
            self._writer.add_custom_scalars(page)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log `values`, and the error bands of some."""
        self._logger.log_metrics({**values, **error_bands(values)}, step=step)

    def histograms(self, histograms: Mapping[str, Histogram], step: int) -> None:
        """Show distributions on the Histograms page."""
        for name, histogram in histograms.items():
            edges, weights = histogram.edges, histogram.weights
            middles, total = (edges[:-1] + edges[1:]) / 2, float(weights.sum())
            self._writer.add_histogram_raw(
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

    def alert(self, alert: Alert, alerts: Sequence[Alert]) -> None:
        """Show all `alerts` so far in one table on the Text page."""
        self._writer.add_text("curvwatch/alerts", alert_table(alerts), alert.step)

    def conclude(
        self, hyperparameters: Mapping[str, Value], alerts: Sequence[Alert], step: int
    ) -> None:
        """Write the HParams page; not before: TensorBoard would ignore what the user logs meanwhile."""
        # hparams that Lightning's logger has and did not log: the user means to
        left_to_user = bool(getattr(self._logger, "hparams", None))
        add_to_hparams(self._writer, hyperparameters, left_to_user=left_to_user)

    def image(self, name: str, image: np.ndarray, step: int) -> None:
        """Show a figure of the run on the Images page."""
        self._writer.add_image(name, image, step, dataformats="HWC")
