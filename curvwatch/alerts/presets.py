"""Sets of rules that a person picks by name; `docs/alerts.md` has what they catch and miss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from curvwatch.alerts.alert import NOT_FINITE
from curvwatch.alerts.rule import Rule

PresetName = Literal["default", "research", "off"]

DEFAULT_RULES = (
    # Healthy runs at the edge pass 1 three times in a row at up to 8 % of positions, but a median
    # over 1.5 was seen at none; runs that diverge read 1.5 to 7 at the first step.
    Rule(
        name="divergence",
        metric="step/stability_ratio",
        above=1.5,
        for_readings=3,
        meaning="steps overshoot: they raise the loss of their own batch; "
        "lower the learning rate or clip the gradient",
    ),
)
RESEARCH_RULES = (
    *DEFAULT_RULES,
    Rule(
        name="edge reached",
        metric="curvature/stability_ratio",
        above=0.95,
        clear=0.6,
        for_readings=3,
        level="info",
        meaning="progressive sharpening has come to the edge of stability",
    ),
    Rule(
        name="edge left",
        metric="curvature/stability_ratio",
        below=0.5,
        clear=0.8,
        for_readings=3,
        level="info",
        meaning="the landscape is flat for this learning rate: it could be larger",
    ),
)
PRESETS: dict[str, tuple[Rule, ...]] = {
    "default": DEFAULT_RULES,
    "research": RESEARCH_RULES,
    "off": (),
}


def rules_of(preset: str | None, rules: Rule | Iterable[Rule] | None) -> tuple[Rule, ...]:
    """The rules of `preset` and `rules`; one of these takes the place of the preset's of its name.

    Args:
        preset: its name; None: the default one, unless there are `rules`.
        rules: of the user; None: there are none.

    Raises:
        ValueError: there is no such preset, one of `rules` is no Rule, or two have the same name.
    """
    own = check_rules(rules)
    if preset is None:
        return DEFAULT_RULES if rules is None else own
    if preset not in PRESETS:
        raise ValueError(f"alerts={preset!r}: one of {', '.join(map(repr, PRESETS))} is needed")
    names = [rule.name for rule in own]
    return (*(rule for rule in PRESETS[preset] if rule.name not in names), *own)


def check_rules(rules: Rule | Iterable[Rule] | None) -> tuple[Rule, ...]:
    """`rules` as a tuple.

    Raises:
        ValueError: one of them is no Rule, or two have the same name.
    """
    own = (rules,) if isinstance(rules, Rule) else tuple(rules or ())
    for rule in own:
        if not isinstance(rule, Rule):
            raise ValueError(f"rules holds {rule!r}: a curvwatch.Rule(name=..., metric=...) is needed")
    names = [rule.name for rule in own]
    for name in names:
        if names.count(name) > 1 or name == NOT_FINITE:
            raise ValueError(f"an alert named {name!r} comes twice: each rule needs a name of its own")
    return own
