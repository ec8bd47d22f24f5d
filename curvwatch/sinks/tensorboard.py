"""TensorBoard: a Custom Scalars page, and alerts as text."""

from __future__ import annotations

from typing import Any

from curvwatch.alerts import Alert

# layouts of several runs are merged by title, so every run writes this very one
_SUFFIX = r"(-[^/]*)?(/[^/]*)?$"
# a row of the page has three charts; the last row needs a logarithmic axis where the edges of the
# runs are far apart, as those of SGD and Adam, and a layout cannot ask for one
LAYOUT = {
    "curvwatch": {
        title: ["Multiline", [f"^{metric}{_SUFFIX}" for metric in metrics]]
        for title, metrics in {
            "stability ratio (1 is the edge)": ["curvature/stability_ratio"],
            "sharpness": ["curvature/sharpness"],
            "loss on the probe": ["curvature/loss"],
            "stability ratio of the step": ["step/stability_ratio"],
            "directional sharpness of the step": ["step/directional_sharpness"],
            "gradient correlation of the step": ["step/gradient_correlation"],
            "sharpness against 2/lr": ["curvature/sharpness", "curvature/edge"],
            "effective sharpness against its edge": [
                "curvature/effective_sharpness",
                "curvature/effective_edge",
            ],
            "learning rate x sharpness": ["curvature/sharpness_x_lr"],
        }.items()
    }
}


def is_tensorboard(experiment: Any) -> bool:
    """Whether `experiment` is a SummaryWriter."""
    return hasattr(type(experiment), "add_custom_scalars")


def write_layout(experiment: Any) -> None:
    """Lay out the Custom Scalars page."""
    experiment.add_custom_scalars(LAYOUT)


def write_alert(experiment: Any, alert: Alert) -> None:
    """Show `alert` on the Text page."""
    experiment.add_text(f"curvwatch/alerts/{alert.rule}", str(alert), alert.step)
