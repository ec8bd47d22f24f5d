"""Rules and their states, on made-up series."""

from __future__ import annotations

import math
from typing import Any

import pytest

from curvwatch import Rule
from curvwatch.results.alerts import NOT_FINITE, PRESETS, AlertEngine, rules_of

NAN, INF = math.nan, math.inf


def statuses(rule: Rule, series: list[float], every: int = 1) -> list[str]:
    """The status after each reading of "x"."""
    engine = AlertEngine([rule])
    seen = []
    for i, value in enumerate(series):
        engine.observe(i * every, {"x": value})
        states = engine.state_dict()["watches"][rule.name]["states"]
        seen.append(states[""]["status"] if states else "-")
    return seen


def fired(rule: Rule, series: list[float], every: int = 1) -> list[int]:
    engine = AlertEngine([rule])
    for i, value in enumerate(series):
        engine.observe(i * every, {"x": value})
    return [alert.step for alert in engine.alerts]


OK, PENDING, FIRING, RESOLVED = "ok", "pending", "firing", "resolved"


@pytest.mark.parametrize(
    ("rule", "series", "expected"),
    [
        ({"above": 1}, [0, 2, 2, 0, 0, 2], [OK, FIRING, FIRING, RESOLVED, OK, FIRING]),
        ({"below": 1}, [2, 0, 0, 2, 2], [OK, FIRING, FIRING, RESOLVED, OK]),
        (
            {"above": 1, "for_readings": 3},
            [0, 2, 2, 2, 0, 0, 0],
            [OK, PENDING, FIRING, FIRING, FIRING, RESOLVED, OK],
        ),
        ({"above": 1, "for_readings": 2}, [2, 2, 0, 0], [PENDING, FIRING, RESOLVED, OK]),
        # hysteresis: it hovers between 0.5 and 1
        (
            {"above": 1, "clear": 0.5},
            [2, 0.7, 2, 0.6, 0.5, 0.7],
            [FIRING, FIRING, FIRING, FIRING, RESOLVED, OK],
        ),
        ({"below": 1, "clear": 1.5}, [0.5, 1.2, 0.5, 1.5, 1.2], [FIRING, FIRING, FIRING, RESOLVED, OK]),
        # flapping
        ({"above": 1}, [2, 0, 2, 0], [FIRING, RESOLVED, FIRING, RESOLVED]),
        (
            {"above": 1, "for_readings": 3},
            [2, 0, 2, 0, 2, 0],
            [PENDING, OK, FIRING, RESOLVED, FIRING, RESOLVED],
        ),
        # missing readings leave everything as it was
        (
            {"above": 1, "for_readings": 2},
            [2, NAN, NAN, 2, NAN, 0],
            [PENDING, PENDING, PENDING, FIRING, FIRING, RESOLVED],
        ),
        ({"above": 1}, [INF, -INF], [FIRING, RESOLVED]),
        ({"above": 1}, [1, 1], [OK, OK]),
        (
            {"above": 1, "cooldown": 3},
            [2, 0, 2, 2, 0, 2],
            [FIRING, RESOLVED, PENDING, FIRING, RESOLVED, PENDING],
        ),
    ],
)
def test_states(rule: dict[str, Any], series: list[float], expected: list[str]) -> None:
    assert statuses(Rule("r", "x", **rule), series) == expected


def test_a_missing_first_reading_is_no_state() -> None:
    assert statuses(Rule("r", "x", above=1), [NAN, 0]) == ["-", OK]


def test_cooldown_is_counted_in_steps() -> None:
    rule = Rule("r", "x", above=1, cooldown=30)
    assert fired(rule, [2, 0, 2, 0, 2, 0, 2], every=10) == [0, 40]


def test_times_the_running_median() -> None:
    rule = Rule("r", "x", times_median=10)
    assert fired(rule, [1.0] * 9 + [99.0]) == []  # nothing is usual yet
    assert fired(rule, [1.0] * 10 + [99.0]) == [10]
    assert fired(rule, [1.0] * 10 + [9.9]) == []
    assert fired(rule, [-1.0] * 12 + [99.0]) == []
    # the median is that of the last 50 before: 100 is usual by then
    assert fired(rule, [1.0] * 60 + [100.0] * 60) == [60]
    assert fired(Rule("r", "x", times_median=10, for_readings=3), [1.0] * 12 + [99.0] * 3) == [13]


def test_a_line_that_crosses_soon() -> None:
    rule = Rule("r", "x", above=1.0, within_steps=25)
    rising = [0.1 * i for i in range(10)]
    assert fired(rule, rising, every=10) == [80]
    assert fired(Rule("r", "x", above=1.0, within_steps=45), rising, every=10) == [60]
    assert fired(rule, rising[::-1], every=10) == []
    assert fired(rule, [0.5] * 20, every=10) == []
    assert fired(rule, [0.0, 9.0], every=10) == [10]  # over it already
    assert fired(Rule("r", "x", below=-1.0, within_steps=45), [-v for v in rising], every=10) == [60]


def test_joined_rules_hold_at_the_same_time() -> None:
    joined = Rule.all("both", Rule("", "x", above=1), Rule("", "y", below=0), meaning="m", level="info")
    engine = AlertEngine([joined])
    for step, values in enumerate([{"x": 2.0}, {"y": 1.0}, {"y": -1.0}, {"x": 0.0}, {"x": 3.0}]):
        engine.observe(step, values)
    assert [(a.step, a.level) for a in engine.alerts] == [(2, "info"), (4, "info")]
    assert engine.alerts[0].resolved == 3
    assert engine.alerts[0].text == "x is 2, over 1 and y is -1, under 0: m"


def test_of_joined_rules_each_optimizer_has_its_own_and_shares_the_rest() -> None:
    joined = Rule.all("both", Rule("", "x", above=1), Rule("", "loss", above=5))
    engine = AlertEngine([joined])
    engine.observe(0, {"x-SGD": 2.0, "x-Adam": 0.0})
    engine.observe(1, {"loss": 9.0})
    engine.observe(2, {"x-Adam": 2.0})
    assert [(a.step, a.metric) for a in engine.alerts] == [(1, "x-SGD"), (2, "x-Adam")]


def test_joined_rules_join_further() -> None:
    x, y, z = (Rule("", name, above=1) for name in "xyz")
    three = Rule.all("three", Rule.all("two", x, y), z)
    assert [part.metric for part in three.parts] == ["x", "y", "z"]
    assert [part.suffix("z-SGD") for part in three.parts] == [None, None, "-SGD"]
    assert all(part.suffix("zz") is None for part in three.parts)
    with pytest.raises(ValueError, match="joins 1 rules: two or more"):
        Rule.all("one", x)


def test_what_pending_rules_wait_for() -> None:
    engine = AlertEngine([Rule("a", "x", above=1, for_readings=2), Rule("b", "y", above=1)])
    engine.observe(0, {"x-SGD": 2.0, "y": 0.0})
    assert engine.wanted() == {"x"}
    engine.observe(1, {"x-SGD": 2.0})
    assert engine.wanted() == set()  # it fires


@pytest.mark.parametrize(
    "rule",
    [
        Rule("r", "x", above=1, for_readings=3, clear=0.5, cooldown=4),
        Rule("r", "x", times_median=3, for_readings=2),
        Rule("r", "x", above=4, within_steps=3),
        Rule.all("r", Rule("", "x", above=1, for_readings=2), Rule("", "y", above=1)),
    ],
)
def test_an_engine_goes_on_from_any_state(rule: Rule) -> None:
    series = [1, 1, 2, 2, 0.7, 0, 3, 3, 3, 0, 0, 5, NAN, 5, 0, 0, 0, 9, 9, 9, 0.2, 9, 9, 9]
    values = [{"x": float(v), "y": float(v > 0.8) * 2} for v in series]
    whole = AlertEngine([rule])
    for step, now in enumerate(values):
        whole.observe(step, now)
    assert whole.alerts
    for cut in range(len(values)):
        first, second = AlertEngine([rule]), AlertEngine([rule])
        for step, now in enumerate(values[:cut]):
            first.observe(step, now)
        second.load_state_dict(first.state_dict())
        assert second.state_dict() == first.state_dict()
        for step in range(cut, len(values)):
            second.observe(step, values[step])
        assert second.alerts == whole.alerts
        assert second.state_dict() == whole.state_dict()


def test_the_state_of_a_rule_that_is_gone_is_dropped() -> None:
    first = AlertEngine([Rule("a", "x", above=1), Rule("b", "x", above=1)])
    first.observe(0, {"x": 2.0})
    second = AlertEngine([Rule("b", "x", above=1), Rule("c", "x", above=1)])
    second.load_state_dict(first.state_dict())
    assert [a.rule for a in second.observe(1, {"x": 2.0})] == ["c"]
    assert [a.rule for a in second.alerts] == ["a", "b", "c"]


def test_values_that_are_not_finite_are_watched_on_request() -> None:
    on, off = AlertEngine([]), AlertEngine([], watch_finite=False)
    for engine in (on, off):
        engine.observe(3, {}, [("loss", NAN)])
        engine.observe(5, {}, finite=["loss"])
    assert [(a.rule, a.level, a.resolved) for a in on.alerts] == [(NOT_FINITE, "critical", 5)]
    assert off.alerts == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "the rule 'r' has no threshold"),
        ({"above": 1, "below": 0}, "above and below: one of"),
        ({"above": NAN}, "above=nan: a finite number"),
        ({"above": "1"}, "above='1': a finite number"),
        ({"above": 1, "clear": 2}, "clear=2 is on the firing side of 1"),
        ({"below": 1, "clear": 0}, "clear=0 is on the firing side of 1"),
        ({"above": 1, "clear": INF}, "clear=inf: a finite number"),
        ({"above": 1, "for_readings": 1.5}, "for_readings=1.5: a number of readings"),
        ({"above": 1, "cooldown": -1}, "cooldown=-1: a number of steps, 0 or more"),
        ({"above": 1, "within_steps": 0}, "within_steps=0: a number of steps"),
        ({"times_median": 0}, "times_median=0: a positive number"),
        ({"times_median": 2, "within_steps": 5}, "without within_steps"),
        ({"above": 1, "level": "bad"}, "level='bad': one of 'info', 'warning', 'critical'"),
        ({"above": 1, "action": "halt"}, "action='halt': a function of one Alert, 'stop'"),
    ],
)
def test_bad_rules_are_quoted(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rule("r", "x", **options)


def test_presets_and_rules_of_your_own() -> None:
    own = Rule("sharp", "curvature/sharpness", above=500.0)
    other = Rule("spike ahead", "step/stability_ratio", above=3.0)
    default = PRESETS["default"]
    assert rules_of(None, None) == rules_of("default", None) == rules_of("default", []) == default
    assert rules_of(None, [own]) == rules_of("off", [own]) == (own,)
    assert rules_of(None, []) == rules_of("off", None) == ()
    assert rules_of("default", own) == (*default, own)
    assert [r for r in rules_of("research", [other]) if r.name == "spike ahead"] == [other]
    assert set(default) < set(PRESETS["research"])
