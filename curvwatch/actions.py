"""What an alert sets off beside its message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from curvwatch.alerts import Alert

# "stop" first: LightningCLI saves a configuration by the first type that fits
Action = Literal["stop"] | Callable[[Alert], object]


def check_actions(on_alert: Action | Sequence[Action] | None) -> tuple[Action, ...]:
    """`on_alert` as a tuple.

    Raises:
        ValueError: one of them is neither callable nor "stop".
    """
    if on_alert is None:
        return ()
    actions: Sequence[Any] = on_alert if isinstance(on_alert, (list, tuple)) else [on_alert]
    for action in actions:
        if not callable(action) and action != "stop":
            raise ValueError(
                f"on_alert={action!r}: a function of one Alert, 'stop', or a list of these is needed"
            )
    return tuple(actions)
