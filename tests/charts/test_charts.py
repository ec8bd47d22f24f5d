"""The catalogue of charts: every metric of every measure is on one, and no chart is of nothing."""

from __future__ import annotations

import re

import numpy as np
import pytest
from torch import nn

from curvwatch.charts import (
    CHARTS,
    ERRORS,
    FIRST,
    LAYER,
    NUMBER,
    OTHER,
    SECTIONS,
    SHORT_STORY,
    STORY,
    errors_of,
    half_widths,
    has_place,
    is_shown,
    match,
    names_of,
    regex,
)
from curvwatch.measures import COST_METRICS, MEASURES, Measure, SpectralDensity, StepGeometry

NET = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
# of a measure that is to come
# metrics that no chart needs to show, and why; errors are bands, so `ERRORS` has them
NOT_SHOWN: dict[str, str] = {}


def measured() -> dict[str, set[str]]:
    """All metrics of each measure in a run that trains `NET`."""
    params = list(NET.parameters())
    made: dict[str, Measure] = {name: measure() for name, measure in MEASURES.items()}
    made["step_geometry"] = StepGeometry(compare=["adam"])
    made["preconditioned"] = SpectralDensity(of="preconditioned")
    told = {n: {*m.metrics_of(NET, params), *m.sampling_metrics} for n, m in made.items()}
    return {**told, "cost": set(COST_METRICS)}


def is_charted(name: str) -> bool:
    on_a_chart = any(match(metric, name) for chart in CHARTS.values() for metric in chart.metrics)
    # it is drawn with the metric whose error it is
    is_band = any(
        match(error.metric, name)
        and any(metric in chart.metrics for chart in CHARTS.values() if not chart.boards_only)
        for metric, errors in ERRORS.items()
        for error in errors
    )
    return on_a_chart or is_band or name in NOT_SHOWN


@pytest.mark.parametrize("measure", measured())
def test_every_metric_of_a_measure_is_on_a_chart_or_is_a_band(measure: str) -> None:
    assert [name for name in sorted(measured()[measure]) if not is_charted(name)] == []


def test_a_metric_that_is_on_no_chart_is_noticed() -> None:
    assert not is_charted("curvature/new")
    assert not is_charted("curvature/new_stderr")
    assert not is_charted("curvature/layer/0/new")


def test_every_metric_of_a_chart_is_measured() -> None:
    known = set().union(*measured().values())
    for chart in CHARTS.values():
        for metric in {*chart.metrics, *chart.needs}:
            assert names_of(metric, known), (chart.title, metric)
    for metric, errors in ERRORS.items():
        for name in (metric, *(error.metric for error in errors)):
            assert names_of(name, known), name


def test_charts_are_well_made() -> None:
    assert len(CHARTS) == sum(map(len, SECTIONS.values()))
    for title, chart in CHARTS.items():
        assert chart.how.endswith("."), title
        assert len(chart.lines) in (0, len(chart.metrics)), title
        several = len([m for m in chart.metrics if "edge" not in m]) > 1 and not any(
            has_place(m) for m in chart.metrics
        )
        assert bool(chart.lines) or not several, title
    headlines = [chart.headline or chart.title for chart in CHARTS.values()]
    assert len(set(headlines)) == len(headlines)
    assert set(FIRST) <= set(CHARTS)
    assert {title for panel in STORY for title in panel.charts} <= set(CHARTS)
    assert set(SHORT_STORY) <= set(STORY)
    assert list(SECTIONS)[:4] == ["Stability", "Steps", "Cost", "Spectrum"]


def test_names_agree_with_metrics_and_their_places() -> None:
    layers = f"curvature/layer/{LAYER}/share"
    assert match(layers, "curvature/layer/a.b/c/share-Adam-1") == ("a.b/c", "-Adam-1")
    assert match(layers, "curvature/layer/share/trace") is None
    assert match(layers, "curvature/layer/net.0/eigenvector_share") is None
    assert match("curvature/edge", "curvature/edge-SGD/pg1") == ("", "-SGD/pg1")
    assert match("curvature/edge", "curvature/edges") is None
    assert match(f"curvature/eigenvalue/{NUMBER}", "curvature/eigenvalue/x") is None
    assert match(f"step/{OTHER}/gradient_cosine", "step/layer/a/gradient_cosine") is None
    numbered = [f"curvature/eigenvalue/{i}" for i in (10, 2, 0)]
    assert names_of(f"curvature/eigenvalue/{NUMBER}", numbered) == numbered[::-1]
    # strange names of a user's are no regular expressions
    assert match("val/(x", "val/(x-SGD") == ("", "-SGD")


def test_regular_expressions_say_the_same() -> None:
    names = sorted(set().union(*measured().values()))
    names += [f"{name}-Adam" for name in names]
    for metric in {metric for chart in CHARTS.values() for metric in chart.metrics}:
        found = [name for name in names if re.match(regex(metric), name)]
        assert sorted(names_of(metric, names)) == sorted(found), metric


def test_a_chart_of_several_measures_waits_for_the_one_it_is_about() -> None:
    chart = CHARTS["traces of Hessian, Gauss-Newton and Fisher"]
    assert not is_shown(chart, ["curvature/trace"])
    assert is_shown(chart, ["fisher/trace-Adam"])


def test_errors_add_up_and_know_their_suffix_and_layer() -> None:
    told = errors_of("curvature/layer/net.0/trace-Adam")
    assert [error.metric for error in told] == ["curvature/layer/net.0/trace_stderr-Adam"]
    assert errors_of("curvature/sharpness_x_lr") == ()
    values = np.array([-4.0, 2.0, 1.0])
    others = {
        "curvature/residual-Adam": np.array([0.25, 0.5, np.nan]),
        "curvature/sharpness_stderr-Adam": np.array([0.5, np.nan, np.nan]),
    }
    widths = half_widths(values, errors_of("curvature/sharpness-Adam"), others)
    np.testing.assert_array_equal(widths, [4 * 0.25 + 2 * 0.5, 1.0, np.nan])
    # two standard errors of batch sharpness, as a share of it
    others = {
        "curvature/batch_sharpness_stderr": np.array([1.0]),
        "curvature/batch_sharpness": np.array([8.0]),
    }
    widths = half_widths(np.array([0.5]), errors_of("curvature/batch_stability_ratio"), others)
    np.testing.assert_array_equal(widths, [0.5 * 2 / 8])
