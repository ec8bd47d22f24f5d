"""TensorBoard: a Custom Scalars page, and alerts as text."""

from __future__ import annotations

from typing import Any

from curvwatch.alerts import Alert

# layouts of several runs are merged by title, so every run writes this very one
_SUFFIX = r"(-[^/]*)?(/[^/]*)?$"
LAYOUT = {
    "curvwatch": {
        title: ["Multiline", [f"^{metric}{_SUFFIX}" for metric in metrics]]
        for title, metrics in {
            "sharpness against 2/lr": ["curvature/sharpness", "curvature/edge"],
            "effective sharpness against its edge": [
                "curvature/effective_sharpness",
                "curvature/effective_edge",
            ],
            "stability ratio of the landscape (1 is the edge)": ["curvature/stability_ratio"],
            "stability ratio of the step (1: it no longer lowers the loss)": ["step/stability_ratio"],
            "gradient correlation": ["step/gradient_correlation"],
            "directional sharpness": ["step/directional_sharpness"],
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
