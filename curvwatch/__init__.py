"""Curvature of the loss while a network trains, as a PyTorch Lightning callback.

>>> from curvwatch import CurvatureMonitor
>>> monitor = CurvatureMonitor()  # Trainer(callbacks=[monitor])
"""

from curvwatch.alerts import Alert, Rule
from curvwatch.errors import CurvwatchError, CurvwatchWarning
from curvwatch.history import History
from curvwatch.measures import Measure, Sharpness, StepGeometry
from curvwatch.monitor import CurvatureMonitor
from curvwatch.objective import Objective
from curvwatch.stability import StabilityLaw, register_law, stability_law

__version__ = "0.1.0"

__all__ = [
    "Alert",
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
    "register_law",
    "stability_law",
]
