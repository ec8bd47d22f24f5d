"""Rules over readings, the alerts that they raise, and what these set off."""

from curvwatch.results.alerts.actions import (
    Action,
    RunAction,
    act,
    action_name,
    check_actions,
    lower_lr,
    warmup_again,
    webhook,
)
from curvwatch.results.alerts.alert import NOT_FINITE, Alert
from curvwatch.results.alerts.engine import AlertEngine
from curvwatch.results.alerts.episodes import Episodes
from curvwatch.results.alerts.presets import (
    DEFAULT_RULES,
    PRESETS,
    PresetName,
    check_rules,
    rules_of,
)
from curvwatch.results.alerts.rule import Rule

__all__ = [
    "DEFAULT_RULES",
    "NOT_FINITE",
    "PRESETS",
    "Action",
    "Alert",
    "AlertEngine",
    "Episodes",
    "PresetName",
    "Rule",
    "RunAction",
    "act",
    "action_name",
    "check_actions",
    "check_rules",
    "lower_lr",
    "rules_of",
    "warmup_again",
    "webhook",
]
