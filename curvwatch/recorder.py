"""Where readings go: the history, the loggers, other callbacks, and the alerts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from curvwatch.actions import Action
from curvwatch.alerts import DEFAULT_RULES, Alert, AlertEngine, Rule
from curvwatch.faults import Faults
from curvwatch.history import History
from curvwatch.reader import Readings
from curvwatch.run import Run
from curvwatch.sinks import Sinks
from curvwatch.sinks.hyperparameters import hyperparameters

log = logging.getLogger("curvwatch")


class Recorder:
    """Takes the readings of a run.

    Args:
        faults: where failures go.
        rules: what to alert on.
        actions: what to do on an alert.

    Attributes:
        history: all readings.
    """

    def __init__(self, faults: Faults, *, rules: Sequence[Rule], actions: Sequence[Action]) -> None:
        self._faults = faults
        self._rules = rules
        self._actions = actions
        self._engine = AlertEngine(rules)
        self._sinks = Sinks([], faults)
        self.history = History()
        self.history.alerts = self._engine.alerts

    @property
    def alerts(self) -> list[Alert]:
        """All alerts of the run, in order."""
        return self._engine.alerts

    def start(self, run: Run, metrics: Sequence[str]) -> None:
        """Announce the `metrics` of `run`; tell of rules that none of them feeds."""
        setup: dict[str, float | str | bool] = {}
        with self._faults.caught("looking at the hyperparameters"):
            setup = hyperparameters(run.optimizers, run.suffixes)
        self._sinks = Sinks(run.loggers, self._faults, setup)
        self._sinks.start(metrics)
        for rule in self._rules:
            # the default rules are for whatever is measured
            if rule not in DEFAULT_RULES and not any(map(rule.watches, metrics)):
                self._faults.tell(
                    f"the rule {rule.name!r} watches {rule.metric!r}, which is not measured in this run"
                )

    def record(self, run: Run, step: int, readings: Readings) -> None:
        """Send readings of optimizer step `step` to all places."""
        for note in readings.notes:
            self.history.note(step, note)
        if readings.values:
            self.history.record(step, readings.values)
            run.publish(readings.values)
            self._sinks.scalars(readings.values, step)
        for measure, doubt in readings.doubts:
            self._faults.tell(f"{doubt} (step {step})", causes=(f"doubt of {measure}",))
        alerts = self._engine.observe(step, readings.trusted, readings.broken, finite=readings.finite)
        for alert in alerts:
            self._raise_alert(run, alert)

    def finish(self) -> None:
        """The run is over: show it as a whole, where there is anything to show."""
        if len(self.history):
            last = max(int(self.history[name].steps[-1]) for name in self.history)
            self._sinks.finish(self.history, self.alerts, last)
        self._sinks = Sinks([], self._faults)

    def _raise_alert(self, run: Run, alert: Alert) -> None:
        if run.leads:
            log.warning("curvwatch alert, %s", alert)
        self._sinks.alert(alert, self.alerts)
        for action in self._actions:
            if action == "stop":
                run.stop(f"curvwatch: {alert.rule}")
            else:
                with self._faults.caught(f"on_alert={getattr(action, '__name__', action)!r}"):
                    action(alert)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"history": self.history.state_dict(), "alerts": self._engine.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.history.load_state_dict(state["history"])
        self._engine.load_state_dict(state["alerts"])
        self.history.alerts = self._engine.alerts
