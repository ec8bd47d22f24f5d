"""Curvature of the loss while a network trains, as a PyTorch Lightning callback.

>>> from curvwatch import CurvatureMonitor
>>> monitor = CurvatureMonitor()  # Trainer(callbacks=[monitor])
"""

from typing import TYPE_CHECKING, Any

from curvwatch.errors import CurvwatchError, CurvwatchWarning
from curvwatch.measures import Measure, Sharpness, StepGeometry
from curvwatch.measures.compared import Compared
from curvwatch.objective import Objective
from curvwatch.results import History
from curvwatch.results.advice import Advice, advise
from curvwatch.results.alerts import Alert, Rule, lower_lr, warmup_again, webhook
from curvwatch.stability import StabilityLaw, register_law, stability_law
from curvwatch.watch import Watch

if TYPE_CHECKING:
    from curvwatch.monitor import CurvatureMonitor
    from curvwatch.report.wandb_workspace import wandb_workspace

__version__ = "0.1.0"

__all__ = [
    "Advice",
    "Alert",
    "Compared",
    "CurvatureMonitor",
    "CurvwatchError",
    "CurvwatchWarning",
    "History",
    "Measure",
    "Objective",
    "Rule",
    "Sharpness",
    "StabilityLaw",
    "StepGeometry",
    "Watch",
    "advise",
    "lower_lr",
    "register_law",
    "stability_law",
    "wandb_workspace",
    "warmup_again",
    "webhook",
]


def __getattr__(name: str) -> Any:
    # the numerics are of use without Lightning, and quick to import
    if name == "CurvatureMonitor":
        from curvwatch.monitor import CurvatureMonitor

        return CurvatureMonitor
    if name == "wandb_workspace":
        from curvwatch.report.wandb_workspace import wandb_workspace

        return wandb_workspace
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
