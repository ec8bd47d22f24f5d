"""Run findings and write their results, pictures and pages.

python -m gallery [NAME ...] [--redraw]
"""

from __future__ import annotations

import argparse
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.report import machine
from curvwatch.cli.demo.train import quiet
from gallery.finding import Made
from gallery.findings import FINDINGS
from gallery.page import FOLDER, index, page, read_results, results_file, write_results


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m gallery", description=__doc__)
    names = [finding.name for finding in FINDINGS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; default: all")
    parser.add_argument("--redraw", action="store_true", help="pictures and pages anew, without a run")
    chosen = parser.parse_args()
    if unknown := sorted(set(chosen.names) - set(names)):
        sys.exit(f"gallery: {unknown[0]!r} is no finding; there are {', '.join(names)}")
    console = Console()
    for finding in FINDINGS:
        if chosen.names and finding.name not in chosen.names:
            continue
        begin = time.perf_counter()
        if not chosen.redraw:
            columns = (TextColumn("{task.description:>28}"), BarColumn(), TimeElapsedColumn())
            with quiet(), Progress(*columns, console=console) as progress:
                results = finding.run(progress)
            seconds = round(time.perf_counter() - begin)
            write_results(finding, results, Made(seconds, machine()))
        elif not results_file(finding).exists():
            continue
        results, made = read_results(finding)
        finding.draw(results).savefig(FOLDER / f"{finding.name}.png", dpi=110)
        (FOLDER / f"{finding.name}.md").write_text(page(finding, results, made), encoding="utf-8")
        for check in finding.checks(results):
            outcome = "agrees" if check.holds else "DIFFERS"
            surprise = "" if check.holds == check.expected else " (not as its page was written for)"
            console.print(f"  {outcome}{surprise}: {check.claim}: {check.found}")
        console.print(f"{finding.name}: {time.perf_counter() - begin:.0f} s")
    there = {f.name: read_results(f)[0] for f in FINDINGS if results_file(f).exists()}
    (FOLDER / "README.md").write_text(index(FINDINGS, there), encoding="utf-8")


if __name__ == "__main__":
    main()
