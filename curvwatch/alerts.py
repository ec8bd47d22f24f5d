"""Rules over readings, and the alerts that they raise."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Alert:
    """One rule that began to fire.

    Attributes:
        rule: name of the rule.
        metric: name of the metric, with its optimizer's suffix.
        step: optimizer step of the reading.
        value: what the rule compared: nan or inf for `not_finite`.
        text: what it means, for people.
    """

    rule: str
    metric: str
    step: int
    value: float
    text: str

    def __str__(self) -> str:
        return f"step {self.step}: {self.text}"


@dataclass(frozen=True)
class Rule:
    """Fires when the median of the last `for_readings` values of `metric` is above `above`.

    Attributes:
        name: of the rule.
        metric: which metric, without suffix; with several optimizers each has a state of its own.
        above: the threshold.
        for_readings: how many readings the median is taken of; values that are missing do not count.
        meaning: what it means, for people.
    """

    name: str
    metric: str
    above: float
    for_readings: int
    meaning: str

    def __post_init__(self) -> None:
        if isinstance(self.for_readings, bool) or not isinstance(self.for_readings, int):
            raise ValueError(f"for_readings={self.for_readings!r}: a whole number is needed")
        if self.for_readings < 1:
            raise ValueError(f"for_readings={self.for_readings!r}: at least one reading is needed")
        if isinstance(self.above, (bool, str)) or not math.isfinite(self.above):
            raise ValueError(f"above={self.above!r}: a finite number is needed as a threshold")

    def watches(self, metric: str) -> bool:
        """Whether `metric` is this rule's, with or without an optimizer's suffix."""
        return metric == self.metric or metric.startswith(self.metric + "-")


# Healthy runs at the edge pass 1 three times in a row at up to 8 % of positions, but a median over
# 1.5 was seen at none; runs that diverge read 1.5 to 7 at the first step.
DEFAULT_RULES = (
    Rule(
        name="divergence",
        metric="step/stability_ratio",
        above=1.5,
        for_readings=3,
        meaning="steps overshoot: they raise the loss of their own batch; "
        "lower the learning rate or clip the gradient",
    ),
)
NOT_FINITE = "not_finite"


@dataclass
class _Watch:
    """State of one rule on one metric."""

    recent: deque[float]
    firing: bool = False


@dataclass
class AlertEngine:
    """Watches readings with `rules` and lists what began to fire.

    Attributes:
        rules: what to watch for; values that are not finite are watched in any case.
        alerts: all alerts of the run, in order.
    """

    rules: Sequence[Rule] = DEFAULT_RULES
    alerts: list[Alert] = field(default_factory=list)
    _watches: dict[str, _Watch] = field(default_factory=dict)
    _broken: set[str] = field(default_factory=set)

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
            finite: quantities beside `values` that were looked at and found finite.
        """
        mended = {*finite, *(name for name, value in values.items() if math.isfinite(value))}
        new = self._look_at_broken(step, list(broken), mended)
        for rule in self.rules:
            for metric, value in values.items():
                if rule.watches(metric) and not math.isnan(value):
                    new += self._apply(rule, metric, step, value)
        self.alerts += new
        return new

    def _look_at_broken(
        self, step: int, broken: list[tuple[str, float]], mended: set[str]
    ) -> list[Alert]:
        """One alert when quantities stop being finite, the next once all of them were finite again."""
        self._broken -= mended
        was = bool(self._broken)
        self._broken |= {metric for metric, _ in broken}
        if was or not broken:
            return []
        metric, value = broken[0]
        text = f"{metric} is {value}: the loss, or a derivative of it, is not finite"
        return [Alert(NOT_FINITE, metric, step, value, text)]

    def _apply(self, rule: Rule, metric: str, step: int, value: float) -> list[Alert]:
        watch = self._watches.setdefault(
            f"{rule.name}:{metric}", _Watch(deque(maxlen=rule.for_readings))
        )
        watch.recent.append(value)
        middle = median(watch.recent)
        fires = len(watch.recent) == rule.for_readings and middle > rule.above
        was, watch.firing = watch.firing, fires
        if was or not fires:
            return []
        text = (
            f"{metric} is {middle:.3g}, over {rule.above:.3g} "
            f"(median of the last {rule.for_readings} readings): {rule.meaning}"
        )
        return [Alert(rule.name, metric, step, middle, text)]

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: a resumed run does not fire again."""
        return {
            "alerts": [vars(a).copy() for a in self.alerts],
            "watches": {
                key: {"recent": list(w.recent), "firing": w.firing} for key, w in self._watches.items()
            },
            "broken": sorted(self._broken),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`; state of rules that are no longer there is dropped."""
        self.alerts = [Alert(**a) for a in state["alerts"]]
        self._broken = set(state["broken"])
        windows = {rule.name: rule.for_readings for rule in self.rules}
        self._watches = {
            key: _Watch(deque(w["recent"], maxlen=windows[key.rpartition(":")[0]]), w["firing"])
            for key, w in state["watches"].items()
            if key.rpartition(":")[0] in windows
        }


def check_rules(rules: Iterable[Rule] | None) -> tuple[Rule, ...]:
    """`rules` as a tuple; None: the default ones.

    Raises:
        ValueError: one of them is no Rule, or two have the same name.
    """
    if rules is None:
        return DEFAULT_RULES
    rules = (rules,) if isinstance(rules, Rule) else tuple(rules)
    for rule in rules:
        if not isinstance(rule, Rule):
            raise ValueError(f"rules holds {rule!r}: a curvwatch.Rule(name=..., metric=...) is needed")
    names = [r.name for r in rules]
    for name in names:
        if names.count(name) > 1 or name == NOT_FINITE:
            raise ValueError(f"an alert named {name!r} comes twice: each rule needs a name of its own")
    return rules
