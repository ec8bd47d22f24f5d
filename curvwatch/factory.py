"""A monitor in every Trainer, where the environment says `CURVWATCH=1`.

Lightning calls `callbacks` for each Trainer that is made, by the entry points of pyproject.toml.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from curvwatch.monitor import StandbyMonitor


def callbacks() -> list[StandbyMonitor]:
    """A monitor with the default arguments where `CURVWATCH=1`; else nothing, and nothing imported."""
    if os.environ.get("CURVWATCH") != "1":
        return []
    from curvwatch.monitor import StandbyMonitor

    return [StandbyMonitor()]
