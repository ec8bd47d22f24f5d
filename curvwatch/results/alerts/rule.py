"""Rules over readings: thresholds, and the value that is compared with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import Any, get_args

import numpy as np

from curvwatch.checks import check_choice, check_int
from curvwatch.results.alerts.actions import Action, check_actions
from curvwatch.results.alerts.alert import Level

# the running median is that of at most so many readings before, and needs at least so many
MEDIAN_OF, MEDIAN_LEAST = 50, 10
# a line needs so many readings
_LINE_LEAST = 3


@dataclass(frozen=True)
class Rule:
    """Fires when a metric passes a threshold, and keeps firing until it is clear.

    What is compared is the median of the last `for_readings` values. One of `above`, `below` and
    `times_median` is needed.

    Attributes:
        name: of the rule.
        metric: which metric, without suffix: of curvwatch, or one that the module logs by `self.log`,
            such as "train_loss". With several optimizers each has a state of its own.
        above: fires over this threshold.
        for_readings: how many readings the median is taken of; values that are missing do not count.
        meaning: what an alert of it means and what to do, part of its text.
        below: fires under this threshold.
        times_median: fires over so many times the running median of the 50 readings before (at least
            10); for metrics that are positive.
        within_steps: fires as soon as a line through the last readings (3, or `for_readings` where
            that is more) crosses `above` or `below` within so many steps.
        clear: keeps firing until the value is back at this threshold, on the safe side of the other:
            hysteresis for values that hover; None: the same threshold.
        cooldown: optimizer steps from an alert to the next of this rule, at least.
        level: "info", "warning" or "critical".
        action: what an alert of this rule does beside `on_alert`: see `CurvatureMonitor`.
        also: rules that must hold at the same time, see `Rule.all`.

    Raises:
        ValueError: a threshold is missing, or out of range.

    Example:
        >>> Rule("sharp", "curvature/sharpness", above=500.0, clear=400.0, for_readings=2)
        Rule(name='sharp', metric='curvature/sharpness', above=500.0, for_readings=2, clear=400.0)
    """

    name: str
    metric: str
    above: float | None = None
    for_readings: int = 1
    meaning: str = ""
    below: float | None = None
    times_median: float | None = None
    within_steps: int | None = None
    clear: float | None = None
    cooldown: int = 0
    level: Level = "warning"
    action: Action | Sequence[Action] | None = None
    also: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        readings, steps = "a number of readings, 1 or more,", "a number of steps, {} or more,"
        check_int("for_readings", self.for_readings, at_least=1, what=readings)
        check_int("cooldown", self.cooldown, at_least=0, what=steps.format(0))
        if self.within_steps is not None:
            check_int("within_steps", self.within_steps, at_least=1, what=steps.format(1))
        given = {n: getattr(self, n) for n in ("above", "below", "times_median")}
        given = {n: value for n, value in given.items() if value is not None}
        for name, value in (*given.items(), ("clear", 0.0 if self.clear is None else self.clear)):
            if isinstance(value, (bool, str)) or not math.isfinite(value):
                raise ValueError(f"{name}={value!r}: a finite number is needed as a threshold")
        if len(given) != 1:
            raise ValueError(
                f"the rule {self.name!r} has {' and '.join(given) or 'no threshold'}: one of above, "
                "below and times_median is needed"
            )
        if self.times_median is not None and (self.times_median <= 0 or self.within_steps):
            raise ValueError(
                f"times_median={self.times_median!r}: a positive number is needed, without within_steps"
            )
        if self.clear is not None and self.is_over(self.clear, self.threshold):
            raise ValueError(
                f"clear={self.clear!r} is on the firing side of {self.threshold!r}: alerts would be "
                "resolved while the value is still past the threshold"
            )
        check_choice("level", self.level, get_args(Level))
        check_actions(self.action, name="action")

    @classmethod
    def all(cls, name: str, *rules: Rule, **options: Any) -> Rule:
        """A rule that fires while all of `rules` hold.

        Args:
            name: of the joined rule; the names of its parts do not matter.
            rules: two or more.
            options: `meaning`, `cooldown`, `level` and `action` of the joined rule.

        Example:
            >>> steep = Rule("", "curvature/stability_ratio", above=1.0)
            >>> worse = Rule("", "train_loss", times_median=2.0)
            >>> Rule.all("spike", steep, worse, meaning="the loss rises at the edge").name
            'spike'
        """
        if len(rules) < 2:
            raise ValueError(f"Rule.all({name!r}) joins {len(rules)} rules: two or more are needed")
        parts = [part for rule in rules for part in rule.parts]
        plain = {"meaning": "", "cooldown": 0, "level": "warning", "action": None}
        return replace(parts[0], name=name, also=tuple(parts[1:]), **{**plain, **options})

    def __repr__(self) -> str:
        always = ("name", "metric")
        shown = [
            f"{name}={value!r}"
            for name, field in self.__dataclass_fields__.items()
            if (value := getattr(self, name)) != field.default or name in always
        ]
        return f"Rule({', '.join(shown)})"

    @cached_property
    def parts(self) -> tuple[Rule, ...]:
        """What must hold at the same time: this rule by itself, and those of `also`."""
        return (replace(self, also=()), *self.also) if self.also else (self,)

    def suffix(self, metric: str) -> str | None:
        """The optimizer's suffix in `metric`; None where this rule is not about it."""
        if metric == self.metric:
            return ""
        return metric[len(self.metric) :] if metric.startswith(self.metric + "-") else None

    @property
    def threshold(self) -> float:
        """Whichever of `above`, `below` and `times_median` was given."""
        given = (self.above, self.below, self.times_median)
        return next(value for value in given if value is not None)

    @property
    def memory(self) -> int:
        """How many readings are kept, to compare the newest with."""
        before = MEDIAN_OF if self.times_median is not None else 0
        line = _LINE_LEAST if self.within_steps else 1
        return before + max(self.for_readings, line)

    def is_over(self, value: float, threshold: float) -> bool:
        """Whether `value` is on the firing side of `threshold`."""
        return value < threshold if self.below is not None else value > threshold

    def compared(self, readings: Sequence[tuple[int, float]]) -> float | None:
        """What is compared with the threshold; None: there are too few readings.

        Args:
            readings: steps and values, the newest last.
        """
        values = [value for _, value in readings]
        if len(values) < self.for_readings:
            return None
        middle = median(values[-self.for_readings :])
        if self.times_median is not None:
            return _over_median(middle, values[: -self.for_readings])
        if self.within_steps:
            return self._expected(readings, middle)
        return middle

    def newest(self, readings: Sequence[tuple[int, float]]) -> float | None:
        """What would be compared if the newest value were the only one."""
        return replace(self, for_readings=1, within_steps=None).compared(readings)

    def _expected(self, readings: Sequence[tuple[int, float]], middle: float) -> float | None:
        assert self.within_steps is not None
        if self.is_over(middle, self.threshold):
            return middle
        used = readings[-max(_LINE_LEAST, self.for_readings) :]
        if len(used) < _LINE_LEAST or not all(math.isfinite(value) for _, value in used):
            return None
        steps, values = np.array(used, dtype=float).T
        slope, level = np.polyfit(steps - steps[-1], values, 1)
        return float(level + slope * self.within_steps)


def _over_median(value: float, before: Sequence[float]) -> float | None:
    if len(before) < MEDIAN_LEAST:
        return None
    usual = median(before[-MEDIAN_OF:])
    return value / usual if usual > 0 and math.isfinite(usual) else None
