"""History.save and History.load."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest

from curvwatch import CurvatureMonitor, History, Rule
from curvwatch.errors import CurvwatchError
from curvwatch.results.alerts import Alert
from tests.support.modules import Classifier, fit

ODD = [0.1, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan, 1 / 3]


def bits(values: list[float]) -> list[bytes]:
    return [struct.pack("<d", value) for value in values]


def test_numbers_come_back_bit_for_bit(tmp_path: Path) -> None:
    history = History()
    for step, value in enumerate(ODD):
        history.record(step * 2**40, {"curvature/loss": value, "naïve\n<b>": -value})
    history.note(3, "why\u2028")
    history.alerts.append(Alert("not_finite", "curvature/loss", 4, math.nan, "it is nan"))
    path = history.save(tmp_path / "new" / "run")
    assert path == tmp_path / "new" / "run.curvwatch.json"
    again = History.load(path)
    assert list(again) == list(history)
    for name in history:
        kept = history.to_dict()[name]
        assert again.to_dict()[name]["steps"] == kept["steps"]
        assert bits(again.to_dict()[name]["values"])[:6] == bits(kept["values"])[:6]
        assert math.isnan(again.to_dict()[name]["values"][6])
        assert bits(again.to_dict()[name]["values"])[7:] == bits(kept["values"])[7:]
    assert again.notes == history.notes
    assert repr(again.alerts) == repr(history.alerts)
    assert again.save(path).read_bytes() == path.read_bytes()
    assert [file.name for file in path.parent.iterdir()] == ["run.curvwatch.json"]


def test_the_file_is_json_that_any_program_reads(tmp_path: Path) -> None:
    history = History()
    history.record(0, {"a": math.nan, "b": math.inf})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    content = json.loads(history.save(tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert content["series"] == {
        "a": {"steps": [0], "values": [None]},
        "b": {"steps": [0], "values": ["inf"]},
    }


def test_a_monitors_history_has_its_alerts_also_after_a_resume(tmp_path: Path) -> None:
    rule = Rule("always", "step/stability_ratio", above=-1e9, for_readings=1, meaning="for this test")
    monitor = CurvatureMonitor(every_n_steps=2, rules=[rule])
    fit(Classifier(), monitor, max_steps=4)
    assert len(monitor.alerts) == 1
    again = History.load(monitor.history.save(tmp_path / "run"))
    assert again.alerts == monitor.alerts
    assert again.to_dict() == monitor.history.to_dict()
    resumed = CurvatureMonitor(every_n_steps=2, rules=[rule])
    resumed.load_state_dict(monitor.state_dict())
    assert resumed.history.alerts == monitor.alerts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a history that curvwatch saved, or is truncated"),
        ("3", "not a history"),
        ('{"curvwatch_history": 99}', "version 99"),
        ('{"curvwatch_history": 1, "series": {"a": {"steps": [1], "values": []}}}', "damaged"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.curvwatch.json"
    path.write_text(content)
    with pytest.raises(CurvwatchError, match=message):
        History.load(path)
