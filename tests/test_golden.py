"""The golden readings: the same run is recorded alike, and what is not the same is found."""

from __future__ import annotations

import copy
import math

import pytest

from benchmarks.golden import __main__ as golden
from benchmarks.golden.values import Cell, Record, differences


def test_two_records_are_the_same_and_a_change_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    before, after = golden.record(["by_hand_heard"]), golden.record(["by_hand_heard"])
    assert golden.compare(before, after) == 0
    cells = before["runs"]["by_hand_heard"]["values"]
    names = {name for name, _, _ in cells}
    assert {"curvature/sharpness", "logged curvature/sharpness", "advice.low"} <= names
    assert not any("cost_seconds" in name or "cost_share" in name for name in names)
    capsys.readouterr()

    changed = copy.deepcopy(after)
    cell = next(c for c in changed["runs"]["by_hand_heard"]["values"] if c[0] == "curvature/sharpness")
    cell[2] = math.nextafter(float.fromhex(cell[2]), math.inf).hex()
    assert golden.compare(before, changed, ignore_words=True) == 1
    printed = capsys.readouterr().out
    assert "by_hand_heard, step 0, curvature/sharpness" in printed
    assert f"{len(cells)} values" in printed
    assert "1 values and 0 texts differ" in printed


def test_words_alone_may_be_let_pass(capsys: pytest.CaptureFixture[str]) -> None:
    before = golden.record(["by_hand_heard"])
    after = copy.deepcopy(before)
    after["runs"]["by_hand_heard"]["words"][0][2] += " Really."
    assert golden.compare(before, after) == 1
    assert golden.compare(before, after, ignore_words=True) == 0
    assert "words differ: by_hand_heard" in capsys.readouterr().out


def test_nan_is_nan_and_minus_zero_is_not_zero() -> None:
    record = Record()
    record.add("a", {"x": math.nan, "y": -0.0})
    assert list(differences("run", record.values, [*record.values])) == []
    other = [record.values[0], Cell("a[y]", 0, (0.0).hex())]
    assert [d.cell for d in differences("run", record.values, other)] == ["a[y]"]


def test_a_value_that_is_missing_is_a_difference_and_moves_no_other() -> None:
    cells = [Cell("a", step, float(step).hex()) for step in range(4)]
    (lost,) = differences("run", cells, cells[:1] + cells[2:])
    assert (lost.at, lost.after) == (1, None)
    (found,) = differences("run", cells[:3], cells)
    assert (found.at, found.before) == (3, None)
