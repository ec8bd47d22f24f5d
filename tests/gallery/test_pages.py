"""The pages of the gallery are those of their results, and nothing is missing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from gallery.finding import Check, Finding, Made
from gallery.findings import FINDINGS
from gallery.page import FOLDER, index, page, read_results, results_file, write_results

by_name = pytest.mark.parametrize("finding", FINDINGS, ids=lambda f: f.name)


@by_name
def test_numbers_and_words_of_a_page_are_those_of_its_results(finding: Finding) -> None:
    results, made = read_results(finding)
    written = (FOLDER / f"{finding.name}.md").read_text(encoding="utf-8")
    assert written == page(finding, results, made)
    assert (FOLDER / f"{finding.name}.png").stat().st_size > 10_000
    checks = finding.checks(results)
    assert checks
    for check in checks:
        row = f"| {check.claim} | {check.found} | {'yes' if check.holds else '**no**'} |"
        assert row in written
        assert check.holds == check.expected
    assert "differ from those" not in written


@by_name
def test_a_picture_can_be_drawn_from_the_results(finding: Finding) -> None:
    figure = finding.draw(read_results(finding)[0])
    assert all(axes.has_data() for axes in figure.axes)


def test_the_first_page_has_all() -> None:
    there = {f.name: read_results(f)[0] for f in FINDINGS if results_file(f).exists()}
    assert len(there) == len({f.name for f in FINDINGS}) == len(FINDINGS)
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == index(FINDINGS, there)


def test_results_come_back_as_they_were(tmp_path) -> None:
    results = {"a": [1.5, None, -2e-9], "b": "text", "c": {"d": [1, 2]}}
    made = Made(12, "one thread")
    write_results(FINDINGS[0], results, made, tmp_path)
    assert read_results(FINDINGS[0], tmp_path) == (results, made)
    assert not any(isinstance(v, float) and math.isnan(v) for v in results["a"] if v)


def test_a_page_says_where_its_words_are_of_other_results() -> None:
    finding = replace(
        FINDINGS[0],
        checks=lambda _: [Check("as it was", "1", True), Check("as it was not", "2", True, False)],
        reading=lambda results: f"Words, {results['a']}.",
    )
    told = page(finding, {"a": 3}, Made(90, "one thread"))
    assert "were written for**: as it was not.\n\nWords, 3.\n" in told
    assert "in 90 s (one thread)" in told
    assert "in 1.8 minutes" in page(finding, {"a": 3}, Made(110, "one thread"))
