"""What the report says, as text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from curvwatch.charts import Chart
from curvwatch.report.html import write_report
from curvwatch.report.html.payload import MOST_POINTS, payload
from curvwatch.report.logs import LoggedAlert, LoggedRun
from curvwatch.report.run_charts import charts_of, is_logarithmic, thin
from curvwatch.report.summary import UserMetric
from tests.report.synthetic import curve, run

NASTY = "<img src=x onerror=alert(1)>\x1b[31m\u202e</script>'\"&{{ 7 * 7 }}"
ALERT = LoggedAlert(15, "divergence", NASTY)
LOSS = Chart("loss", "", ("curvature/loss",))


def page(tmp_path: Path, runs: list[LoggedRun], **options: object) -> str:
    write_report(runs, tmp_path / "r.html", **options)  # type: ignore[arg-type]
    return (tmp_path / "r.html").read_text(encoding="utf-8")


def drawn(text: str) -> dict[str, object]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_five_runs_of_2000_readings_stay_below_500_kb(tmp_path: Path) -> None:
    text = page(tmp_path, [run(f"run {i}", 2000, seed=i) for i in range(5)])
    assert 200_000 < len(text.encode()) < 500_000
    assert "Long curves are" in text


def test_fifty_runs_stay_small(tmp_path: Path) -> None:
    assert len(page(tmp_path, [run(f"run {i}", 500, seed=i) for i in range(50)]).encode()) < 1_000_000


def test_short_runs_are_drawn_whole(tmp_path: Path) -> None:
    values = [3.0, 2.0, np.nan, 1.0]
    text = page(tmp_path, [run("a", {"curvature/loss": values})])
    (panel,) = drawn(text)["panels"]  # type: ignore[misc]
    assert panel["lines"] == [  # type: ignore[index]
        {"run": 0, "label": "", "edge": False, "x": [0, 10, 20, 30], "y": [3, 2, None, 1]}
    ]
    assert "Long curves are" not in text


@pytest.mark.parametrize(("x", "at"), [("step", 15), ("time", 0.15), ("epoch", 0.15)])
def test_alerts_lie_where_their_step_was(x: str, at: float) -> None:
    told = payload([run("a", {"curvature/loss": [1.0, 2.0, 3.0]}, (ALERT,))], [LOSS], x)
    ((place, rule, _, step),) = told["runs"][0]["alerts"]
    assert (place, rule, step) == (pytest.approx(at), "divergence", 15)
    assert told["panels"][0]["lines"][0]["x"] == pytest.approx(
        {"step": [0, 10, 20], "time": [0, 0.1, 0.2], "epoch": [0, 0.1, 0.2]}[x]
    )


def test_an_axis_that_a_log_does_not_have(tmp_path: Path) -> None:
    known, unknown = run("a", {"curvature/loss": [1.0, 2.0]}), run("b", {"curvature/loss": [1.0, 2.0]})
    lost = {n: replace(c, epochs=c.epochs * np.nan) for n, c in unknown.curves.items()}
    blind = LoggedRun("b", unknown.path, "csv", lost, (ALERT,))
    text = page(tmp_path, [known, blind], x="epoch")
    assert "Not in the log of: b." in text
    assert drawn(text)["runs"][1]["alerts"] == []  # type: ignore[index]


def test_names_and_texts_are_escaped_everywhere(tmp_path: Path) -> None:
    values = {"curvature/loss": [1.0, 2.0], NASTY: [1.0, 2.0]}
    broken = LoggedRun(
        NASTY, Path(NASTY), "csv", run("", values).curves, (ALERT,), {NASTY: NASTY}, (NASTY,)
    )
    text = page(
        tmp_path,
        [broken],
        metrics=[UserMetric("curvature/loss"), UserMetric(NASTY)],
        problems=[NASTY],
    )
    assert "<img" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "49" not in re.sub(
        r"<style>.*?</style>|<script>.*?</script>|sha256-\S+", "", text, flags=re.DOTALL
    )
    assert text.count("</script>") == 3
    assert drawn(text)["runs"][0]["name"].startswith("<img src=x")  # type: ignore[index]


def test_the_policy_names_what_may_run(tmp_path: Path) -> None:
    text = page(tmp_path, [run("a", 3)])
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    assert policy[1].startswith("default-src &#39;none&#39;")
    assert "unsafe" not in policy[1]
    assert not re.search(r'(src|href)="', text)


def test_a_row_a_run_and_what_is_wrong(tmp_path: Path) -> None:
    empty = LoggedRun("b", Path("b"), "csv", {}, problems=("there is no value in it",))
    text = page(
        tmp_path, [run("a", {"curvature/loss": [4.0, 1.0]}), empty], problems=["c: no such file"]
    )
    row = re.findall(r"<tr>\n<td data-value=\"(\w)\">.*?</tr>", text, re.DOTALL)
    assert row == ["a", "b"]
    assert '<td data-value="1.0">1</td>' in text
    assert "<strong>b:</strong> there is no value in it" in text
    assert '<p class="problem">c: no such file' in text
    assert "Not in the log of" not in text  # of b, nothing is


def test_nothing_to_draw(tmp_path: Path) -> None:
    text = page(tmp_path, [LoggedRun("a", Path("a"), "csv", {})])
    assert "None of the runs has values" in text


def test_metrics_of_the_user_come_first(tmp_path: Path) -> None:
    values = {"val/acc": [0.5, 0.9], "curvature/loss": [1.0, 2.0]}
    text = page(tmp_path, [run("a", values)], metrics=[UserMetric("val/acc", largest=True)])
    assert [panel["title"] for panel in drawn(text)["panels"]] == ["val/acc", "loss on the probe"]  # type: ignore
    assert '<td data-value="0.9">0.9</td>' in text


def test_several_optimizers_have_lines_of_their_own() -> None:
    values = {"curvature/effective_sharpness-Adam": [1.0], "curvature/effective_edge-Adam": [3.0]}
    runs = [run("a", values)]
    lines = payload(runs, charts_of(runs), "step")["panels"][0]["lines"]
    assert [(line["label"], line["edge"]) for line in lines] == [("Adam", False), ("Adam edge", True)]


def test_thinning_keeps_peaks_ends_and_gaps() -> None:
    values = np.sin(np.arange(3000) / 50)
    values[1234], values[777], values[2000:2010] = 50.0, -50.0, np.nan
    kept = thin(values, 300)
    assert len(kept) <= 300
    assert (np.diff(kept) > 0).all()
    assert {0, 1234, 777, 2999} <= set(kept.tolist())
    assert np.isnan(values[kept]).any()
    assert thin(values[:300], 300).tolist() == list(range(300))
    assert len(thin(np.full(500, np.nan), 50)) <= 50


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([1.0, 2.0, 3.0], "linear"),
        ([1.0, 1.0, 2.0, 1e6], "log"),
        ([-1.0, 1.0, 2.0, 1e6], "asinh"),
        ([0.0, 0.0, 0.0], "linear"),
        ([-1.0, -2.0, -3.0], "linear"),
    ],
)
def test_a_run_that_went_astray_does_not_press_others_flat(values: list[float], scale: str) -> None:
    told = payload([run("a", {"curvature/loss": values})], [LOSS], "step")
    assert told["panels"][0]["scale"] == scale


def test_no_powers_of_ten_where_the_level_is_zero() -> None:
    panel = Chart("x", "", ("x",), level=0.0)
    assert not is_logarithmic(panel, np.array([1.0, 1.0, 1e6]))


def test_points_are_shared_out() -> None:
    runs = [run(f"{i}", 5000, seed=i) for i in range(4)]
    told = payload(runs, charts_of(runs), "step")
    assert told["thinned"]
    count = sum(len(line["x"]) for panel in told["panels"] for line in panel["lines"])
    assert 0.5 * MOST_POINTS < count <= MOST_POINTS
    assert curve([1.0]).steps.tolist() == [0]
