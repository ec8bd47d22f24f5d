"""Figures of a run, with matplotlib (the report extra)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from curvwatch.alerts import Alert
from curvwatch.history import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class _Panel(NamedTuple):
    title: str
    scale: str
    metrics: tuple[str, ...]


_SHARPNESS = _Panel(
    "Sharpness against its edge",
    "log",
    (
        "curvature/sharpness",
        "curvature/edge",
        "curvature/effective_sharpness",
        "curvature/effective_edge",
    ),
)
_RATIOS = _Panel(
    "Stability ratio: 1 is the edge", "linear", ("curvature/stability_ratio", "step/stability_ratio")
)
_LOSS = _Panel("Loss on the probe", "log", ("curvature/loss",))
_DIRECTIONAL = _Panel("Directional sharpness of the step", "log", ("step/directional_sharpness",))
_STORY = (
    _LOSS,
    _SHARPNESS,
    _RATIOS,
    _DIRECTIONAL,
    _Panel("Gradient correlation of the step", "linear", ("step/gradient_correlation",)),
    _Panel(
        "Loss change of the step, and its prediction",
        "linear",
        ("step/loss_change", "step/predicted_loss_change"),
    ),
)
# healthy values lie between: a run that diverges would leave nothing else to see
_RATIO_RANGE = (-0.5, 4.0)


def plot_history(history: History) -> Figure:
    """A figure of four panels; a metric with several optimizers has a line for each.

    Raises:
        ImportError: matplotlib is missing.
    """
    return _plot(history, (_SHARPNESS, _RATIOS, _LOSS, _DIRECTIONAL), columns=2, size=(11, 7))


def plot_story(history: History, alerts: Sequence[Alert] = ()) -> Figure:
    """Six panels: loss, sharpness against its edge, ratios and steps, with `alerts` marked in each.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure = _plot(history, _STORY, columns=3, size=(16, 8))
    for axes in figure.axes:
        for step in sorted({alert.step for alert in alerts}):
            axes.axvline(step, color="black", linewidth=1, linestyle="-.", label="_alert")
    if alerts:
        rules = ", ".join(dict.fromkeys(alert.rule for alert in alerts))
        first = min(alert.step for alert in alerts)
        figure.suptitle(_plain(f"Alerts (vertical lines, the first at step {first}): {rules}"))
    return figure


def drawn_story(history: History, alerts: Sequence[Alert] = ()) -> np.ndarray:
    """`plot_story` as pixels, shape (height, width, 3), uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(plot_story(history, alerts))
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _plot(
    history: History, panels: Sequence[_Panel], *, columns: int, size: tuple[float, float]
) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "history.plot() draws with matplotlib: pip install 'curvwatch[report]'"
        ) from error

    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(panels) // columns, columns, sharex=True)
    for axes, panel in zip(grid.flat, panels, strict=True):
        _draw(axes, panel, history)
    return figure


def _draw(axes: Any, panel: _Panel, history: History) -> None:
    for metric in panel.metrics:
        for name in history:
            if name == metric or name.startswith((metric + "-", metric + "/")):
                steps, values = history[name]
                dashed = "edge" in metric or "predicted" in metric
                # of plain SGD both sharpnesses are one curve: the wide one shines through
                wide = metric in ("curvature/sharpness", "step/loss_change")
                style: dict[str, Any] = {"linewidth": 3.5, "alpha": 0.5} if wide else {"linewidth": 1.5}
                axes.plot(steps, values, "--" if dashed else "-", label=_plain(name), **style)
    if panel.scale == "log" and any((line.get_ydata() > 0).any() for line in axes.lines):
        axes.set_yscale("log", nonpositive="mask")
    if panel is _RATIOS:
        axes.axhline(1.0, color="0.5", linewidth=1, linestyle=":")
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, _RATIO_RANGE[0]), min(high, _RATIO_RANGE[1]))
    axes.set_title(panel.title)
    axes.set_xlabel("optimizer step")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")


def _plain(text: str) -> str:
    """`text` without the dollar signs that matplotlib reads as formulas."""
    return text.replace("$", r"\$")
