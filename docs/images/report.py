"""Take docs/images/report.png: the report of the runs of examples/compare_optimizers.py.

    python examples/compare_optimizers.py && python docs/images/report.py

Needs Chromium (Debian: apt install chromium).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from curvwatch.cli import main as curvwatch

RUNS = Path("runs/compare")
PICTURE = Path(__file__).with_name("report.png")


def main() -> None:
    """Write the report, open it, take the picture of its upper part."""
    browser = (
        shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    )
    if browser is None:
        sys.exit("Chromium is missing: apt install chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        report = Path(folder) / "report.html"
        if curvwatch(["compare", str(RUNS), "-o", str(report)]):
            sys.exit("python examples/compare_optimizers.py makes the runs")
        chromium = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 1240}, color_scheme="light")
        page.goto(report.as_uri())
        page.locator("html[data-ready]").wait_for()
        page.wait_for_timeout(500)  # uPlot draws when it has time
        page.screenshot(path=PICTURE)
        chromium.close()
    print(f"wrote {PICTURE}, {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
