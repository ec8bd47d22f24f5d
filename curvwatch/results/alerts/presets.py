"""Sets of rules that a person picks by name; `docs/alerts.md` has what they catch and miss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from curvwatch.checks import check_choice
from curvwatch.results.alerts.alert import NOT_FINITE
from curvwatch.results.alerts.rule import Rule

PresetName = Literal["default", "research", "off"]

_RATIO, _RISE = "step/stability_ratio", "step/relative_loss_change"
# further alerts of a rule within so many steps count as the same event
_COOLDOWN = 100


def _overshooting(name: str, readings: int, *, ratio: float, rise: float, meaning: str) -> Rule:
    """Steps overshoot, and the loss of their own batch rises by so much."""
    return Rule.all(
        name,
        Rule("", _RATIO, above=ratio, for_readings=readings),
        Rule("", _RISE, above=rise, for_readings=readings),
        meaning=meaning,
        cooldown=_COOLDOWN,
    )


# Tuned on the first half of the runs of `make bench-alerts`. The ratio alone passes 1 at 8 % of the
# steps of healthy runs at the edge, and 1.5 now and then; but those steps hardly raise the loss.
DEFAULT_RULES = (
    # one step so long that the second-order expansion, and with it the ratio, no longer describes it
    Rule(
        name="spike ahead",
        metric=_RISE,
        above=1.5,
        cooldown=_COOLDOWN,
        meaning="the last step multiplied the loss of its own batch by more than 2.5; lower the "
        "learning rate or clip the gradient",
    ),
    _overshooting(
        "divergence ahead",
        2,
        ratio=1.0,
        rise=0.5,
        meaning="steps repeatedly overshoot and raise the loss of their own batch by more than 50 %; "
        "lower the learning rate",
    ),
    _overshooting(
        "slow divergence ahead",
        3,
        ratio=1.5,
        rise=0.1,
        meaning="steps repeatedly overshoot and raise the loss of their own batch by more than 10 %; "
        "lower the learning rate",
    ),
    # the loss of the next batch, which no step saw. A batch unlike others makes three times the median
    # in healthy runs: five times it alone, or three times it in two that are reported
    Rule(
        name="loss spike",
        metric="step/loss_over_median",
        above=3.0,
        for_readings=2,
        clear=2.0,
        cooldown=_COOLDOWN,
        meaning="the training loss is far over the median of the 50 losses before; lower the "
        "learning rate or clip the gradient, unless this batch is unlike others",
    ),
    Rule.all(
        "stuck",
        Rule("", "step/silent_share", above=0.5, for_readings=3),
        Rule("", "step/loss_over_start", above=0.9, for_readings=3),
        meaning="most weights have a gradient of exactly 0 and the loss is where it began: the network "
        "no longer responds to its input, as with ReLU units that are off for good; begin anew with a "
        "lower learning rate",
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
        meaning="progressive sharpening has reached the edge of stability",
    ),
    Rule(
        name="edge left",
        metric="curvature/stability_ratio",
        below=0.5,
        clear=0.8,
        for_readings=3,
        level="info",
        meaning="sharpness is well below the edge for this learning rate, which could be larger",
    ),
    # Lewkowycz et al. 2020, arXiv:2003.02218: from 2/lr to some 4/lr (12/lr with ReLU) the weights
    # are thrown to a flatter region; beyond, the run diverges
    Rule(
        name="catapult",
        metric="curvature/stability_ratio",
        above=1.5,
        clear=1.0,
        level="info",
        meaning="sharpness is far above the edge for this learning rate: the loss rises until the "
        "weights reach a flatter region, or the run diverges",
    ),
)
PRESETS: dict[str, tuple[Rule, ...]] = {
    "default": DEFAULT_RULES,
    "research": RESEARCH_RULES,
    "off": (),
}


def rules_of(preset: str | None, rules: Rule | Iterable[Rule] | None) -> tuple[Rule, ...]:
    """The rules of `preset` and `rules`; one of `rules` replaces the preset's of the same name.

    Args:
        preset: its name; None: the default one, unless there are `rules`.
        rules: of the user; None: there are none.

    Raises:
        ValueError: there is no such preset, one of `rules` is no Rule, or two have the same name.
    """
    own = check_rules(rules)
    if preset is None:
        return DEFAULT_RULES if rules is None else own
    check_choice("alerts", preset, tuple(PRESETS))
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
            raise ValueError(f"the rule name {name!r} is already in use: each rule needs its own")
    return own
