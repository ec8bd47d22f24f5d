"""Each measure tells its metrics, its price and its source, and `curvwatch measures` prints them."""

from __future__ import annotations

import re

import pytest

from curvwatch.cli import main
from curvwatch.measures import MEASURES
from curvwatch.measures.docs import describe
from curvwatch.measures.presets import PRESETS


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_tells_metrics_price_and_source(name: str) -> None:
    found = describe(MEASURES[name])
    assert found.name == name
    assert found.what.endswith(".")
    assert len(found.price) > 10
    assert len(found.source) > 10
    told = " ".join(names for names, _ in found.metrics)
    for metric in MEASURES[name]().metrics:
        numbered = re.sub(r"/\d+$", "/0", metric)
        stem = re.sub(r"_(error|stderr)$", "", metric)
        assert metric in told or numbered in told or (stem in told and "..." in told), metric


def test_the_list_has_metrics_price_and_source_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measures"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for measure in MEASURES.values():
        found = describe(measure)
        assert measure.name in out
        assert f"Price: {found.price}" in out
        assert f"Source: {found.source}" in out
        # cells are broken where the terminal ends
        assert all(name.split("`")[0].split(",")[0][:12] in out for name, _ in found.metrics)
    assert "sharpness (on)" in out
    assert all(preset in out for preset in PRESETS)


def test_one_measure_and_a_line_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measures", "gauss_newton"]) == 0
    out = capsys.readouterr().out
    assert "gauss_newton/lambda_max" in out
    assert "Price: two gradients" in out
    assert "Schraudolph" in out
    assert "fisher" not in out.replace("Fisher", "")
    assert main(["measures", "--brief"]) == 0
    brief = capsys.readouterr().out
    assert all(name in brief for name in MEASURES)
    assert "Schraudolph" not in brief


def test_an_unknown_measure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measures", "sharpnes"]) == 1
    assert "sharpnes: one of sharpness, " in capsys.readouterr().err
