"""The pages of the gallery are those of their results, and nothing is missing."""

from __future__ import annotations

import math

import pytest

from gallery.finding import Finding
from gallery.findings import FINDINGS
from gallery.page import FOLDER, index, page, read_results, results_file, write_results

by_name = pytest.mark.parametrize("finding", FINDINGS, ids=lambda f: f.name)


@by_name
def test_numbers_and_words_of_a_page_are_those_of_its_results(finding: Finding) -> None:
    results = read_results(finding)
    written = (FOLDER / f"{finding.name}.md").read_text(encoding="utf-8")
    assert written == page(finding, results)
    assert (FOLDER / f"{finding.name}.png").stat().st_size > 10_000
    checks = finding.checks(results)
    assert checks
    for check in checks:
        assert check.claim in written
        assert ("**no**" in written) or check.holds


@by_name
def test_a_picture_can_be_drawn_from_the_results(finding: Finding) -> None:
    figure = finding.draw(read_results(finding))
    assert all(axes.has_data() for axes in figure.axes)


def test_the_first_page_has_all() -> None:
    there = {f.name: read_results(f) for f in FINDINGS if results_file(f).exists()}
    assert len(there) == len({f.name for f in FINDINGS}) == len(FINDINGS)
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == index(FINDINGS, there)


def test_results_come_back_as_they_were(tmp_path) -> None:
    results = {"a": [1.5, None, -2e-9], "b": "text", "c": {"d": [1, 2]}}
    write_results(FINDINGS[0], results, tmp_path)
    assert read_results(FINDINGS[0], tmp_path) == results
    assert not any(isinstance(v, float) and math.isnan(v) for v in results["a"] if v)
