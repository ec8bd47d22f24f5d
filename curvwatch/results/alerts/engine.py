"""Checks readings against rules, and raises alerts."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from curvwatch.results.alerts.alert import NOT_FINITE, Alert
from curvwatch.results.alerts.presets import DEFAULT_RULES
from curvwatch.results.alerts.rule import Rule

Status = Literal["ok", "pending", "firing", "resolved"]


@dataclass
class _State:
    """The state of one rule for one optimizer.

    Attributes:
        status: see `AlertEngine`.
        fired: the step of its last alert.
    """

    status: Status = "ok"
    fired: int | None = None


@dataclass
class _RuleHistory:
    """The readings that one rule compares, and its states.

    Attributes:
        readings: steps and values, by the number of the rule's part and the optimizer's suffix.
        states: by the optimizer's suffix.
    """

    readings: dict[tuple[int, str], deque[tuple[int, float]]] = field(default_factory=dict)
    states: dict[str, _State] = field(default_factory=dict)

    def is_complete(self, parts: int, suffix: str) -> bool:
        """Whether each part has a reading, of this optimizer or of the whole run."""
        return all((i, suffix) in self.readings or (i, "") in self.readings for i in range(parts))


class AlertEngine:
    """Checks readings against `rules` and raises an alert when one begins to fire.

    Each rule has a status for each optimizer: "ok"; "pending" once a reading is over the threshold,
    while the median of the readings that it needs is not, or while it cools down; "firing" from its
    alert on; "resolved" at the first reading that is clear again, and "ok" at the next.

    Args:
        rules: to check.
        watch_finite: whether values that are not finite raise an alert, too.

    Attributes:
        alerts: all alerts of the run, in order.
    """

    def __init__(self, rules: Sequence[Rule] = DEFAULT_RULES, *, watch_finite: bool = True) -> None:
        self.rules = tuple(rules)
        self.alerts: list[Alert] = []
        self._watch_finite = watch_finite
        self._histories = {rule.name: _RuleHistory() for rule in rules}
        self._broken: set[str] = set()

    def observe(
        self,
        step: int,
        values: Mapping[str, float],
        broken: Iterable[tuple[str, float]] = (),
        *,
        finite: Iterable[str] = (),
    ) -> list[Alert]:
        """The alerts that one step sets off.

        Args:
            step: of the readings.
            values: metric names and values; a value that is nan is missing.
            broken: quantities that are not finite, and their values.
            finite: quantities beside `values` that were checked and are finite.
        """
        all_finite = {*finite, *(name for name, value in values.items() if math.isfinite(value))}
        new = self._check_finite(step, list(broken), all_finite) if self._watch_finite else []
        for rule in self.rules:
            for metric in self._add_readings(rule, step, values):
                new += self._judge(rule, metric, step)
        self.alerts += new
        return new

    def wanted(self) -> set[str]:
        """The metrics, without suffix, that rules which are pending wait for."""
        pending = {
            name
            for name, history in self._histories.items()
            if any(state.status == "pending" for state in history.states.values())
        }
        return {part.metric for rule in self.rules if rule.name in pending for part in rule.parts}

    def action_of(self, alert: Alert) -> Any:
        """What the rule of `alert` asks for."""
        return next((rule.action for rule in self.rules if rule.name == alert.rule), None)

    def _check_finite(
        self, step: int, broken: list[tuple[str, float]], finite: set[str]
    ) -> list[Alert]:
        """One alert when quantities stop being finite, the next only after all were finite again."""
        was_broken = bool(self._broken)
        self._broken -= finite
        if was_broken and not self._broken:
            self._resolve(NOT_FINITE, None, step)
        was_broken = bool(self._broken)
        self._broken |= {metric for metric, _ in broken}
        if was_broken or not broken:
            return []
        metric, value = broken[0]
        text = f"{metric} is {value}: the loss, or a derivative of it, is not finite"
        return [Alert(NOT_FINITE, metric, step, value, text, "critical")]

    def _add_readings(self, rule: Rule, step: int, values: Mapping[str, float]) -> list[str]:
        """Add the `values` that `rule` compares; its metrics, one for each optimizer, to judge now."""
        history = self._histories[rule.name]
        updated: set[str] = set()
        for i, part in enumerate(rule.parts):
            for metric, value in values.items():
                suffix = part.suffix(metric)
                if suffix is None or math.isnan(value):
                    continue
                of = history.readings.setdefault((i, suffix), deque(maxlen=part.memory))
                of.append((step, value))
                updated.add(suffix)
        suffixes = dict.fromkeys(suffix for _, suffix in history.readings)
        # a metric without a suffix belongs to all optimizers
        shared = "" in updated and len(rule.parts) > 1
        return [
            rule.metric + suffix
            for suffix in suffixes
            if (suffix in updated or shared) and history.is_complete(len(rule.parts), suffix)
        ]

    def _judge(self, rule: Rule, metric: str, step: int) -> list[Alert]:
        history = self._histories[rule.name]
        suffix = metric[len(rule.metric) :]
        state = history.states.setdefault(suffix, _State())
        of_parts = [
            list(history.readings.get((i, suffix)) or history.readings[i, ""])
            for i in range(len(rule.parts))
        ]
        pairs = list(zip(rule.parts, of_parts, strict=True))
        compared = [part.compared(readings) for part, readings in pairs]
        holds = all(
            value is not None and part.is_over(value, part.threshold)
            for part, value in zip(rule.parts, compared, strict=True)
        )
        if state.status == "firing":
            if not holds and not _goes_on(rule, compared):
                state.status = "resolved"
                self._resolve(rule.name, metric, step)
            return []
        cooling = state.fired is not None and step - state.fired < rule.cooldown
        if holds and not cooling:
            state.status, state.fired = "firing", step
            first = compared[0]
            assert first is not None
            return [Alert(rule.name, metric, step, first, _text(rule, metric, compared), rule.level)]
        near = all(
            (newest := part.newest(readings)) is not None and part.is_over(newest, part.threshold)
            for part, readings in pairs
        )
        state.status = "pending" if holds or near else "ok"
        return []

    def _resolve(self, rule: str, metric: str | None, step: int) -> None:
        for i in reversed(range(len(self.alerts))):
            alert = self.alerts[i]
            if alert.rule == rule and metric in (None, alert.metric):
                if alert.resolved is None:
                    self.alerts[i] = replace(alert, resolved=step)
                return

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: a resumed run does not fire again."""
        return {
            "alerts": [vars(a).copy() for a in self.alerts],
            "watches": {  # the histories, under the name that checkpoints have
                name: {
                    "readings": [[i, s, list(map(list, r))] for (i, s), r in history.readings.items()],
                    "states": {s: vars(state).copy() for s, state in history.states.items()},
                }
                for name, history in self._histories.items()
            },
            "broken": sorted(self._broken),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`; state of rules that are no longer there is dropped."""
        self.alerts = [Alert(**a) for a in state["alerts"]]
        self._broken = set(state["broken"])
        for rule in self.rules:
            saved = state["watches"].get(rule.name, {"readings": [], "states": {}})
            history = self._histories[rule.name] = _RuleHistory()
            for i, suffix, readings in saved["readings"]:
                if i < len(rule.parts):
                    pairs = ((int(step), float(value)) for step, value in readings)
                    history.readings[i, suffix] = deque(pairs, maxlen=rule.parts[i].memory)
            history.states = {suffix: _State(**of) for suffix, of in saved["states"].items()}


def _goes_on(rule: Rule, compared: Sequence[float | None]) -> bool:
    """Whether no part is clear yet; a part without enough readings is not."""
    return all(
        value is None or part.is_over(value, part.threshold if part.clear is None else part.clear)
        for part, value in zip(rule.parts, compared, strict=True)
    )


def _text(rule: Rule, metric: str, compared: Sequence[float | None]) -> str:
    suffix = metric[len(rule.metric) :]
    texts = [
        _part_text(part, part.metric + (suffix if i == 0 else ""), value)
        for i, (part, value) in enumerate(zip(rule.parts, compared, strict=True))
    ]
    meaning = f": {rule.meaning}" if rule.meaning else ""
    return " and ".join(texts) + meaning


def _part_text(part: Rule, metric: str, value: float | None) -> str:
    assert value is not None
    median = f" (median of the last {part.for_readings} readings)" if part.for_readings > 1 else ""
    if part.times_median is not None:
        return f"{metric} is {value:.3g} times its running median, over {part.times_median:.3g}{median}"
    side = "under" if part.below is not None else "over"
    if part.within_steps:
        return (
            f"{metric} is, or will be within {part.within_steps} steps at its present slope, "
            f"{value:.3g}, {side} {part.threshold:.3g}"
        )
    return f"{metric} is {value:.3g}, {side} {part.threshold:.3g}{median}"
