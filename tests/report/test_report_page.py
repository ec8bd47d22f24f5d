"""The report in a real browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curvwatch.charts.histogram import Histogram
from curvwatch.report.html import write_report
from curvwatch.report.logs import LoggedAlert, LoggedDensity, LoggedRun
from tests.report.synthetic import METRICS, run

playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: apt install chromium"),
]

NASTY = "<img src=x onerror=alert(1)></script>"
ALERT = LoggedAlert(200, "divergence", f"overshoots {NASTY}")
# how many pixels of a chart are nearly of each run's colour
MARKS = """figure => {
    const canvas = figure.querySelector('canvas'), count = {};
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    document.querySelectorAll('#runs .swatch').forEach(swatch => {
        const [r, g, b] = getComputedStyle(swatch).color.match(/\\d+/g).map(Number);
        const run = swatch.parentElement.querySelector('input').dataset.run;
        count[run] = 0;
        for (let i = 0; i < pixels.length; i += 4)
            count[run] += pixels[i + 3] > 200 && Math.abs(pixels[i] - r) + Math.abs(pixels[i + 1] - g)
                + Math.abs(pixels[i + 2] - b) < 12;
    });
    return count;
}"""


def runs() -> list[LoggedRun]:
    """Three whose curves do not lie on each other, the last with a gap, and one without a value."""
    made = []
    for i, name in enumerate(("adam", NASTY, "sgd")):
        rising = np.linspace(1, 2, 100) + 2.0 * i
        values = {metric: rising.copy() for metric in METRICS}
        values["step/gradient_correlation"] = -rising
        values["curvature/effective_edge"] = np.full(100, 10.0 + i)
        if i == 2:
            values["curvature/loss"][40:60] = np.nan
        made.append(run(name, values, (ALERT,) if i else ()))
    return [*made, LoggedRun("empty", Path("e"), "csv", {}, (), {}, ("there is no value in it",))]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def heat_runs() -> list[LoggedRun]:
    """One with a density, many layers and a value with an error, and one of few layers."""
    steps, edges = np.arange(4) * 10, np.array([-0.1, 0.0, 0.1, 99.0, 100.0])
    mass = (Histogram(edges, np.array([0.5, 0.499, 0.0, 0.001])),) * 4
    layers = {f"curvature/layer/net.{i}/sharpness": np.full(4, i + 1.0) for i in range(14)}
    shares = {f"curvature/layer/net.{i}/share": np.linspace(0, 1, 4) + i for i in range(3)}
    of_trace = {"fisher/trace": np.arange(4.0) + 9, "fisher/trace_stderr": np.ones(4)}
    density = LoggedDensity(steps, mass, steps * 0.01, steps / 100)
    first = run("first", {**layers, **of_trace, **shares})
    second = run("second", shares)
    return [replace(first, densities={"curvature/density": density}), second]


@pytest.fixture
def address(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    shown = getattr(request, "param", runs)()
    write_report(shown, tmp_path / "report.html")
    return (tmp_path / "report.html").as_uri()


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Any]:
    """Opens the report; it must log no error and ask for nothing but itself."""
    errors: list[str] = []
    asked: list[str] = []
    opened: list[Any] = []

    def begin(**options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        page = context.new_page()
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append(f"a dialog: {dialog.message}"))
        page.on("request", lambda r: asked.append(r.url))
        page.goto(address)
        page.locator("html[data-ready]").wait_for()
        opened.append(context)
        return page

    yield begin
    assert errors == []
    assert asked == [address] * len(opened)
    for context in opened:
        context.close()


def marks(page: Any) -> dict[str, dict[str, int]]:
    """By title of the chart, coloured pixels of each run."""
    page.wait_for_timeout(150)  # uPlot draws when it has time
    figures = page.locator("figure").all()
    return {f.locator("h2").inner_text(): f.evaluate(MARKS) for f in figures}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_each_chart_has_marks_of_each_run(open_page: Any, tmp_path: Path, scheme: str) -> None:
    page = open_page(color_scheme=scheme)
    drawn = marks(page)
    page.screenshot(path=tmp_path / "report.png", full_page=True)
    assert len(drawn) == 7
    for title, count in drawn.items():
        for name in ("1", "2") if title.startswith("alerts") else ("0", "1", "2"):
            assert count[name] > 60, title
        assert count["3"] == 0


def test_a_toggle_hides_a_run_and_the_buttons_all(open_page: Any) -> None:
    page = open_page()
    before = marks(page)
    page.get_by_role("checkbox").nth(1).uncheck()
    assert {count["1"] for count in marks(page).values()} == {0}
    assert all(count["2"] > 60 for count in marks(page).values())
    assert page.locator("figure.panel li:visible").get_by_text("adam").count() == 7
    assert page.locator("figure.panel li:visible").get_by_text("img").count() == 0
    page.get_by_role("button", name="hide all").click()
    assert {n for count in marks(page).values() for n in count.values()} == {0}
    page.get_by_role("button", name="show all").click()
    assert marks(page) == before


def test_all_charts_are_read_at_the_same_step(open_page: Any) -> None:
    page = open_page()
    last = page.locator("figure.panel b").all_inner_texts()
    assert last[:3] == ["2", "4", "6"]
    page.locator("figure.panel .u-over").nth(2).hover(position={"x": 2, "y": 50})
    first = page.locator("figure.panel b").all_inner_texts()
    for told, value in zip(first, [1, 3, 5, 1, 3, 5, 1, 3, 5, 10, 11, 12], strict=False):
        assert float(told) == pytest.approx(value, abs=0.05)
    page.mouse.move(2, 2)
    assert page.locator("figure.panel b").all_inner_texts() == last


def test_a_gap_is_told_as_such(open_page: Any) -> None:
    page = open_page()
    over = page.locator("figure.panel .u-over").first
    over.hover(position={"x": over.bounding_box()["width"] / 2, "y": 50})
    told = page.locator("figure.panel").first.locator("b").all_inner_texts()
    assert told[2] == "-"
    assert "-" not in told[:2]


def test_zoom_is_shared_and_undone(open_page: Any) -> None:
    page = open_page()
    whole = marks(page)
    over = page.locator("figure.panel .u-over").first
    box = over.bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 80, box["y"] + 40, steps=4)
    page.mouse.up()
    zoomed = marks(page)
    assert all(zoomed[title] != whole[title] for title in whole)
    page.mouse.dblclick(box["x"] + 50, box["y"] + 40)
    page.mouse.move(2, 2)
    assert marks(page) == whole


def test_columns_sort_and_what_is_missing_stays_last(open_page: Any) -> None:
    page = open_page()
    names = page.locator("#runs tbody td:first-child")
    head = page.locator("#runs th").filter(has_text="loss last")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert [n.strip() for n in names.all_inner_texts()] == ["adam", NASTY, "sgd", "empty"]
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert [n.strip() for n in names.all_inner_texts()] == ["sgd", NASTY, "adam", "empty"]
    page.locator("#runs th").first.get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None
    # a toggle still belongs to its run
    page.locator("#runs tr").filter(has_text="sgd").get_by_role("checkbox").uncheck()
    assert {count["2"] for count in marks(page).values()} == {0}


def test_alerts_are_told_where_one_points(open_page: Any) -> None:
    page = open_page()
    told = page.locator("#alerts .readout").inner_text()
    assert f"{NASTY}, step 200, divergence: overshoots {NASTY}" in told
    page.get_by_text("2 alerts in words").click()
    assert page.locator("details[open] tbody tr").count() == 2


def test_a_phone(open_page: Any, tmp_path: Path) -> None:
    page = open_page(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    page.screenshot(path=tmp_path / "phone.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert all(count["2"] > 20 for count in marks(page).values())


def test_paper_is_white(open_page: Any, tmp_path: Path) -> None:
    page = open_page(color_scheme="dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert dark != "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert marks(page)["loss on the probe"]["0"] > 60
    assert not page.get_by_role("button", name="hide all").is_visible()
    pdf = page.pdf(path=tmp_path / "report.pdf")
    assert pdf.startswith(b"%PDF")


def test_the_theme_can_be_chosen(open_page: Any) -> None:
    page = open_page(color_scheme="dark")
    page.get_by_role("button", name="light / dark").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert all(count["2"] > 60 for count in marks(page).values())


# heat maps, bands and layers

with_heat = pytest.mark.parametrize("address", [heat_runs], indirect=True)
# how many colours a canvas has, those of the edges of glyphs left out
PAINTED = """figure => {
    const canvas = figure.querySelector('canvas'), count = {};
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    for (let i = 0; i < pixels.length; i += 4)
        if (pixels[i + 3] === 255) {
            const colour = [pixels[i], pixels[i + 1], pixels[i + 2]].join(' ');
            count[colour] = (count[colour] ?? 0) + 1;
        }
    return Object.values(count).filter(n => n > 500).length;
}"""


@with_heat
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_heat_maps_are_painted_and_tell_what_is_there(
    open_page: Any, tmp_path: Path, scheme: str
) -> None:
    page = open_page(color_scheme=scheme)
    page.wait_for_timeout(150)
    density, layers = page.locator("figure.heat").all()
    assert "density" in density.inner_text()
    # 14 layers have 14 colours; the bulk has two, and the outlier one
    assert layers.evaluate(PAINTED) == 14
    assert density.evaluate(PAINTED) >= 2
    page.screenshot(path=tmp_path / "heat.png", full_page=True)
    assert "in powers of ten" in density.locator(".ramp").inner_text()
    over = density.locator(".u-over")
    box = over.bounding_box()
    over.hover(position={"x": box["width"] / 2, "y": 2})
    told = density.locator(".told").inner_text()
    assert re.fullmatch(r"step 10, eigenvalue 9\d(\.\d+)?: about (9\.\d+e-4|0\.001)", told)
    over.hover(position={"x": box["width"] / 2, "y": box["height"] / 2})
    assert density.locator(".told").inner_text().endswith("nothing")
    over = layers.locator(".u-over")
    over.hover(position={"x": 10, "y": over.bounding_box()["height"] - 3})
    assert layers.locator(".told").inner_text() == "step 0, net.13: about 14"


@with_heat
def test_a_hidden_run_hides_its_heat_maps(open_page: Any) -> None:
    page = open_page()
    figures = page.locator("figure.heat")
    assert figures.first.is_visible()
    page.locator("#runs input").first.uncheck()
    assert not figures.first.is_visible()
    page.get_by_role("button", name="show all").click()
    assert figures.first.is_visible()
    page.wait_for_timeout(150)
    assert figures.nth(1).evaluate(PAINTED) == 14


@with_heat
def test_bands_and_layers_on_a_phone(open_page: Any, tmp_path: Path) -> None:
    page = open_page(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    page.screenshot(path=tmp_path / "phone.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    trace = page.locator("figure.panel").filter(has_text="traces of")
    assert trace.locator("li").inner_text().split() == ["first", "Fisher", "F", "12", "±", "2"]
    shares = page.locator("figure.panel").filter(has_text="share of each layer in the trace")
    colours = shares.locator(".swatch").evaluate_all("all => all.map(s => getComputedStyle(s).color)")
    assert len(set(colours)) == 6  # two runs of three layers
