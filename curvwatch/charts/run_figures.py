"""Figures of a run, with matplotlib (the report extra)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from curvwatch.charts import CHARTS, SHORT_STORY, STORY, Story, names_of
from curvwatch.charts.figures import AlertLike, RunLike, figure_pixels, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_history(run: RunLike) -> Figure:
    """A figure of four panels; a metric with several optimizers has a line for each.

    Raises:
        ImportError: matplotlib is missing.
    """
    return _plot(run, SHORT_STORY, columns=2, size=(11, 7))


def plot_story(run: RunLike, alerts: Sequence[AlertLike] = ()) -> Figure:
    """Six panels: loss, sharpness against its edge, ratios and steps, with `alerts` marked in each.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure = _plot(run, STORY, columns=3, size=(16, 8))
    for axes in figure.axes:
        for step in sorted({alert.step for alert in alerts}):
            axes.axvline(step, color="black", linewidth=1, linestyle="-.", label="_alert")
    if alerts:
        rules = ", ".join(dict.fromkeys(alert.rule for alert in alerts))
        first = min(alert.step for alert in alerts)
        figure.suptitle(plain(f"Alerts (vertical lines, the first at step {first}): {rules}"))
    return figure


def story_pixels(run: RunLike, alerts: Sequence[AlertLike] = ()) -> np.ndarray:
    """`plot_story` as pixels, shape (height, width, 3), uint8."""
    return figure_pixels(plot_story(run, alerts))


def _plot(run: RunLike, panels: Sequence[Story], *, columns: int, size: tuple[float, float]) -> Figure:
    figure = new_figure(size)
    grid = figure.subplots(len(panels) // columns, columns, sharex=True)
    for axes, panel in zip(grid.flat, panels, strict=True):
        _draw(axes, panel, run)
    return figure


def _draw(axes: Any, panel: Story, run: RunLike) -> None:
    for metric in (metric for title in panel.charts for metric in CHARTS[title].metrics):
        for name in names_of(metric, run):
            curve = run[name]
            dashed = "edge" in metric or "predicted" in metric
            # of plain SGD both sharpnesses are one curve: the wide one shines through
            wide = metric in ("curvature/sharpness", "step/loss_change")
            style: dict[str, Any] = {"linewidth": 3.5, "alpha": 0.5} if wide else {"linewidth": 1.5}
            axes.plot(curve.steps, curve.values, "--" if dashed else "-", label=plain(name), **style)
    if panel.log and any((line.get_ydata() > 0).any() for line in axes.lines):
        axes.set_yscale("log", nonpositive="mask")
    if panel.limits is not None:
        axes.axhline(CHARTS[panel.charts[0]].level, color="0.5", linewidth=1, linestyle=":")
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, panel.limits[0]), min(high, panel.limits[1]))
    axes.set_title(panel.title)
    axes.set_xlabel("optimizer step")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
