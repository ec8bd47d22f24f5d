"""TensorBoard's pages in a real browser: each chart has a curve for each of two runs."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from curvwatch import CurvatureMonitor, Rule
from tests.results.loggers.test_dashboards import WithHparams
from tests.support.modules import batches, fit

playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
pytest.importorskip("tensorboard")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is missing: apt install chromium"),
]

RULE = Rule("always", "step/update_norm", above=0.0, for_readings=1, meaning="<b>bold</b>")
OPTIMIZERS: dict[str, Any] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
}
# title and colours of the curves of each chart
CHARTS = """() => {
    const deep = (selector, root = document) => [...root.querySelectorAll('*')].flatMap(e => [
        ...(e.matches(selector) ? [e] : []), ...(e.shadowRoot ? deep(selector, e.shadowRoot) : [])]);
    const cards = ['multi-line', 'margin'].flatMap(k => deep(`tf-custom-scalar-${k}-chart-card`));
    return cards.map(card => [
        deep('tf-card-heading', card.shadowRoot)[0].displayName,
        [...new Set(deep('svg path', card.shadowRoot)
            .filter(path => (path.getAttribute('d') || '').split('L').length > 4)
            .map(path => path.getAttribute('stroke')))].filter(s => s && s !== 'none'),
    ]);
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the logs of two runs."""
    logs = tmp_path_factory.mktemp("logs")
    for name, optimizer in OPTIMIZERS.items():
        logger = TensorBoardLogger(logs, name=name)
        monitor = CurvatureMonitor(every_n_steps=4, rules=[RULE], probe_batches=2)
        fit(WithHparams(3, optimizer), monitor, logger=logger, data=batches(200))
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        runs: list[str] = []
        for _ in range(240):
            time.sleep(0.25)
            with suppress(OSError), urllib.request.urlopen(f"http://localhost:{port}/data/runs") as got:
                runs = json.load(got)
            if len(runs) == 2:
                break
        assert len(runs) == 2
        yield f"http://localhost:{port}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page that must log no error and ask no other host."""
    opened = browser.new_page(viewport={"width": 1480, "height": 2200})
    errors: list[str] = []
    hosts: set[str] = set()
    opened.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("request", lambda r: hosts.add(r.url.split("/")[2]) if r.url[:4] == "http" else None)
    yield opened
    assert errors == []
    assert hosts == {address.removeprefix("http://")}
    opened.close()


def test_custom_scalars(page: Any, address: str, tmp_path: Path) -> None:
    page.goto(f"{address}/?darkMode=false#custom_scalars&_smoothingWeight=0")
    charts: dict[str, list[str]] = {}
    for _ in range(120):
        page.wait_for_timeout(250)
        charts = dict(page.evaluate(CHARTS))
        if len(charts) == 20 and all(len(colours) == 2 for colours in charts.values()):
            break
    page.screenshot(path=tmp_path / "custom_scalars.png")
    assert {title: len(colours) for title, colours in charts.items()} == dict.fromkeys(charts, 2)
    assert len(charts) == 20
    assert "sharpness with its error" in charts
    for section in ("Stability", "Steps", "Cost", "Spectrum"):
        assert page.get_by_text(section, exact=True).is_visible()


def test_hparams(page: Any, address: str, tmp_path: Path) -> None:
    page.goto(f"{address}/?darkMode=false#hparams")
    cells = page.locator("vaadin-grid-cell-content")
    for text in ("momentum/version_0", "adam/version_0", "Adam", "SGD", "0.10000", "0.010000"):
        cells.get_by_text(text, exact=True).first.wait_for()
    page.screenshot(path=tmp_path / "hparams.png")
    columns = [text.strip() for text in cells.all_inner_texts()]
    for column in ("optimizer/class", "optimizer/lr", "hp_metric", "curvature/stability_ratio"):
        assert column in columns


def test_alerts_and_the_story(page: Any, address: str, tmp_path: Path) -> None:
    page.goto(f"{address}/?darkMode=false#text")
    page.get_by_text("<b>bold</b>").first.wait_for()
    page.screenshot(path=tmp_path / "text.png")
    page.goto("about:blank")
    page.goto(f"{address}/?darkMode=false#images")
    page.locator("tf-image-loader img").nth(1).wait_for()
    page.screenshot(path=tmp_path / "images.png")
