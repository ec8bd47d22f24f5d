"""docs/quantities.md is what the docstrings say, and names tests that there are."""

from __future__ import annotations

import importlib.util
import re

from curvwatch.measures import MEASURES
from tests.support.paths import ROOT


def writer():
    spec = importlib.util.spec_from_file_location("quantities", ROOT / "docs" / "quantities.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_that_of_the_docstrings() -> None:
    docs = writer()
    assert docs.PAGE.read_text(encoding="utf-8") == docs.page(), "python docs/quantities.py"


def test_each_measure_has_its_section_its_price_and_its_twin() -> None:
    text = writer().PAGE.read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(sections) == set(MEASURES)
    for section in sections.values():
        for words in ("| metric | value |", "**Price.**", "**Source", "**Checked against**"):
            assert words in section


def test_what_it_points_to_is_there() -> None:
    docs = writer()
    for name, words in docs.CHECKED.items():
        assert name in MEASURES
        for path in re.findall(r"`(tests/[\w/.]+)`", words):
            assert (ROOT / path).exists(), path
        for path in re.findall(r"\((gallery/[\w.]+)\)", words):
            assert (ROOT / "docs" / path).exists(), path
