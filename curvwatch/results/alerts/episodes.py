"""One action for all alerts that come together, until they are over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from curvwatch.results.alerts.actions import Action
from curvwatch.results.alerts.alert import Alert

_SEVERITY = ("info", "warning", "critical")
# these change nothing, so each alert has its own
_MESSAGES = ("log", "warn")

# rule, metric and step of an alert
_Key = tuple[str, str, int]


class Episodes:
    """Which actions were done, and for which alerts.

    However many rules fire in one step, an action is done once, for the gravest of their alerts; and it
    is not done again, by whichever rule, until all alerts that asked for it are resolved. "log" and
    "warn" only speak, and do so for each alert.
    """

    def __init__(self) -> None:
        self._actions: list[Action] = []  # in the order in which they came up; the state is by number
        self._open: dict[int, set[_Key]] = {}

    def know(self, actions: Iterable[Action]) -> None:
        """Number the actions of a run, which is the same for the same rules and options."""
        for action in actions:
            self._number(action)

    def choose(
        self, asked: Sequence[tuple[Action, Alert]], alerts: Iterable[Alert]
    ) -> list[tuple[Action, Alert]]:
        """What is to be done now.

        Args:
            asked: by the alerts of one step, in order.
            alerts: all of the run.
        """
        unresolved = {_key(alert) for alert in alerts if alert.resolved is None}
        still = {number: keys & unresolved for number, keys in self._open.items()}
        self._open = {number: keys for number, keys in still.items() if keys}
        chosen: dict[int, tuple[Action, Alert]] = {}
        todo: list[tuple[Action, Alert]] = []
        goes_on = set(self._open)
        for action, alert in asked:
            if action in _MESSAGES:
                todo.append((action, alert))
                continue
            number = self._number(action)
            self._open.setdefault(number, set()).add(_key(alert))
            if number in goes_on:
                continue
            first = chosen.get(number)
            if first is None or _gravity(alert) > _gravity(first[1]):
                chosen[number] = (action, alert)
        return todo + list(chosen.values())

    def _number(self, action: Action) -> int:
        for number, known in enumerate(self._actions):
            if known is action or (type(known) is type(action) and known == action):
                return number
        self._actions.append(action)
        return len(self._actions) - 1

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {str(number): sorted(map(list, keys)) for number, keys in self._open.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`, of a run with the same actions."""
        self._open = {
            int(number): {(str(rule), str(metric), int(step)) for rule, metric, step in keys}
            for number, keys in state.items()
        }


def _key(alert: Alert) -> _Key:
    return alert.rule, alert.metric, alert.step


def _gravity(alert: Alert) -> int:
    return _SEVERITY.index(alert.level)
