"""Figures of a run, with matplotlib (the report extra)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from curvwatch.charts import CHARTS, SHORT_STORY, STORY, Story, names_of
from curvwatch.results.alerts import Alert
from curvwatch.results.history import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_history(history: History) -> Figure:
    """A figure of four panels; a metric with several optimizers has a line for each.

    Raises:
        ImportError: matplotlib is missing.
    """
    return _plot(history, SHORT_STORY, columns=2, size=(11, 7))


def plot_story(history: History, alerts: Sequence[Alert] = ()) -> Figure:
    """Six panels: loss, sharpness against its edge, ratios and steps, with `alerts` marked in each.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure = _plot(history, STORY, columns=3, size=(16, 8))
    for axes in figure.axes:
        for step in sorted({alert.step for alert in alerts}):
            axes.axvline(step, color="black", linewidth=1, linestyle="-.", label="_alert")
    if alerts:
        rules = ", ".join(dict.fromkeys(alert.rule for alert in alerts))
        first = min(alert.step for alert in alerts)
        figure.suptitle(plain(f"Alerts (vertical lines, the first at step {first}): {rules}"))
    return figure


def drawn_story(history: History, alerts: Sequence[Alert] = ()) -> np.ndarray:
    """`plot_story` as pixels, shape (height, width, 3), uint8."""
    return drawn(plot_story(history, alerts))


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure, `size` in inches, that no window shows.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "figures of a history are drawn with matplotlib: pip install 'curvwatch[report]'"
        ) from error
    return Figure(figsize=size, layout="constrained")


def drawn(figure: Figure) -> np.ndarray:
    """`figure` as pixels, shape (height, width, 3), uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def plain(text: str) -> str:
    """`text` without the dollar signs that matplotlib reads as formulas."""
    return text.replace("$", r"\$")


def _plot(
    history: History, panels: Sequence[Story], *, columns: int, size: tuple[float, float]
) -> Figure:
    figure = new_figure(size)
    grid = figure.subplots(len(panels) // columns, columns, sharex=True)
    for axes, panel in zip(grid.flat, panels, strict=True):
        _draw(axes, panel, history)
    return figure


def _draw(axes: Any, panel: Story, history: History) -> None:
    for metric in (metric for title in panel.charts for metric in CHARTS[title].metrics):
        for name in names_of(metric, history):
            steps, values = history[name]
            dashed = "edge" in metric or "predicted" in metric
            # of plain SGD both sharpnesses are one curve: the wide one shines through
            wide = metric in ("curvature/sharpness", "step/loss_change")
            style: dict[str, Any] = {"linewidth": 3.5, "alpha": 0.5} if wide else {"linewidth": 1.5}
            axes.plot(steps, values, "--" if dashed else "-", label=plain(name), **style)
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
