"""Where readings go: the history, the loggers, other callbacks, and the alerts."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from curvwatch.errors import ErrorPolicy
from curvwatch.results import History
from curvwatch.results.alerts import (
    Action,
    Alert,
    AlertEngine,
    Rule,
    act,
    action_name,
    check_actions,
)
from curvwatch.results.loggers import Loggers, hyperparameters
from curvwatch.training.reader import Readings
from curvwatch.training.run import TrainingRun

log = logging.getLogger("curvwatch")

# metrics of curvwatch: what of these is not announced when a run begins never comes
_OURS = ("curvature/", "step/")


class Recorder:
    """Takes the readings of a run.

    Args:
        errors: where failures go.
        rules: what to alert on.
        own_rules: those of them that the user gave.
        watch_finite: whether to alert on values that are not finite.
        actions: what to do on an alert.

    Attributes:
        history: all readings.
    """

    def __init__(
        self,
        errors: ErrorPolicy,
        *,
        rules: Sequence[Rule],
        own_rules: Sequence[Rule] = (),
        watch_finite: bool = True,
        actions: Sequence[Action] = (),
    ) -> None:
        self._errors = errors
        self._own_rules = own_rules
        self._actions = actions
        self._engine = AlertEngine(rules, watch_finite=watch_finite)
        self._loggers = Loggers([], errors)
        self._logged: list[str] = []  # metrics of the user that rules watch
        self._never_logged: set[str] = set()  # those of them without a value so far
        self.history = History()
        self.history.alerts = self._engine.alerts

    @property
    def alerts(self) -> list[Alert]:
        """All alerts of the run, in order."""
        return self._engine.alerts

    @property
    def wanted(self) -> set[str]:
        """The metrics, without suffix, that rules which are pending wait for."""
        return self._engine.wanted()

    def start(self, run: TrainingRun, metrics: Sequence[str]) -> None:
        """Announce the `metrics` of `run`; warn of rules on metrics that are not measured."""
        setup: dict[str, float | str | bool] = {}
        with self._errors.guard("reading the hyperparameters"):
            setup = hyperparameters(run.optimizers, run.suffixes)
        self._loggers = Loggers(run.loggers, self._errors, setup)
        self._loggers.start(metrics)
        # the rules of a preset are for whatever is measured
        parts = [(rule, part) for rule in self._own_rules for part in rule.parts]
        strange = [(r, p) for r, p in parts if not any(p.suffix(m) is not None for m in metrics)]
        for rule, part in strange:
            if part.metric.startswith(_OURS):
                self._errors.warn_once(
                    f"the rule {rule.name!r} watches {part.metric!r}, which is not measured in this run"
                )
        self._logged = sorted({p.metric for _, p in strange if not p.metric.startswith(_OURS)})
        self._never_logged = set(self._logged)

    def record(self, run: TrainingRun, step: int, readings: Readings) -> list[Alert]:
        """Send readings of optimizer step `step` to all places; the alerts that they set off."""
        for note in readings.notes:
            self.history.note(step, note)
        if readings.values:
            self.history.record(step, readings.values, readings.histograms)
            self.history.doubt(step, sorted(readings.doubtful & readings.values.keys()))
            run.publish(readings.values)
            self._loggers.scalars(readings.values, step)
        if readings.histograms:
            self._loggers.histograms(readings.histograms, step)
        for measure, doubt in readings.doubts:
            self._errors.warn_once(f"{doubt} (step {step})", causes=(f"doubt of {measure}",))
        values = {**readings.trusted, **self._values_of_user(run)}
        alerts = self._engine.observe(step, values, readings.broken, finite=readings.finite)
        for alert in alerts:
            if run.is_main_process:
                level = logging.INFO if alert.level == "info" else logging.WARNING
                log.log(level, "curvwatch alert, %s", alert)
            self._loggers.alert(alert, self.alerts)
        return alerts

    def act(self, run: TrainingRun, alerts: Sequence[Alert]) -> None:
        """Do what `alerts` ask for."""
        for alert in alerts:
            for action in (*self._actions, *check_actions(self._engine.action_of(alert))):
                with self._errors.guard(f"on_alert={action_name(action)!r}"):
                    act(action, alert, run)

    def finish(self) -> None:
        """The run is over: show it as a whole, where there is anything to show."""
        if len(self.history):
            last = max(int(self.history[name].steps[-1]) for name in self.history)
            self._loggers.finish(self.history, self.alerts, last)
        self._loggers = Loggers([], self._errors)
        for metric in sorted(self._never_logged):
            self._errors.warn_once(f"a rule watches {metric!r}, which was never logged in this run")
        self._never_logged = set()

    def _values_of_user(self, run: TrainingRun) -> dict[str, float]:
        if not self._logged:
            return {}
        with self._errors.guard("reading the metrics of rules"):
            values = run.logged(self._logged)
            self._never_logged -= {name for name, value in values.items() if not math.isnan(value)}
            return values
        return {}

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"history": self.history.state_dict(), "alerts": self._engine.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.history.load_state_dict(state["history"])
        self._engine.load_state_dict(state["alerts"])
        self.history.alerts = self._engine.alerts
