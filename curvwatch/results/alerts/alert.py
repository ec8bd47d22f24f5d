"""What a rule raises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["info", "warning", "critical"]
NOT_FINITE = "not_finite"


@dataclass(frozen=True)
class Alert:
    """One rule that began to fire.

    Attributes:
        rule: name of the rule.
        metric: name of the metric, with its optimizer's suffix.
        step: optimizer step of the reading.
        value: what the rule compared: nan or inf for `not_finite`.
        text: the values, and what they mean, for people.
        level: how bad it is: "info", "warning" or "critical".
        resolved: the step at which the rule was clear again; None: not yet.
    """

    rule: str
    metric: str
    step: int
    value: float
    text: str
    level: Level = "warning"
    resolved: int | None = None

    def __str__(self) -> str:
        return f"step {self.step}: {self.text}"
