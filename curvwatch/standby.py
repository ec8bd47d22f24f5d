"""The monitor of `CURVWATCH=1`, which leaves the field to the user's own."""

from __future__ import annotations

from typing import Any

from curvwatch.monitor import CurvatureMonitor


class StandbyMonitor(CurvatureMonitor):
    """A CurvatureMonitor with the default arguments that steps aside where there is another one."""

    def __init__(self) -> None:
        super().__init__(name="CURVWATCH")

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave `trainer` if it has another monitor, its own or the module's."""
        if any(isinstance(c, CurvatureMonitor) for c in trainer.callbacks if c is not self):
            # another list: the Trainer is in a loop over this one
            trainer.callbacks = [c for c in trainer.callbacks if c is not self]
