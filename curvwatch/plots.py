"""Figures of a run, with matplotlib (the report extra)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from curvwatch.history import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANELS = (
    (
        "Sharpness against its edge",
        "log",
        (
            "curvature/sharpness",
            "curvature/edge",
            "curvature/effective_sharpness",
            "curvature/effective_edge",
        ),
    ),
    (
        "Stability ratio: 1 is the edge",
        "linear",
        ("curvature/stability_ratio", "step/stability_ratio"),
    ),
    ("Loss on the probe", "log", ("curvature/loss",)),
    ("Directional sharpness of the step", "log", ("step/directional_sharpness",)),
)


def plot_history(history: History) -> Figure:
    """A figure of four panels; a metric with several optimizers has a line for each.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "history.plot() draws with matplotlib: pip install 'curvwatch[report]'"
        ) from error

    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, (title, scale, metrics) in zip(
        figure.subplots(2, 2, sharex=True).flat, _PANELS, strict=True
    ):
        for metric in metrics:
            for name in history:
                if name == metric or name.startswith((metric + "-", metric + "/")):
                    steps, values = history[name]
                    dashed = "edge" in metric
                    axes.plot(steps, values, "--" if dashed else "-", label=name, linewidth=1.5)
        if scale == "log" and any((line.get_ydata() > 0).any() for line in axes.lines):
            axes.set_yscale("log")
        if "ratio" in title:
            axes.axhline(1.0, color="0.5", linewidth=1, linestyle=":")
        axes.set_title(title)
        axes.set_xlabel("optimizer step")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    return figure
