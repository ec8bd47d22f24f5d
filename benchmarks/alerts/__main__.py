"""`python -m benchmarks.alerts`: record the grid, score all detectors, write docs/alerts.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.alerts.grid import COUNT, SMALL, grid
from benchmarks.alerts.workers import record

FOLDER = Path("runs/alerts")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alerts", description=__doc__)
    parser.add_argument("--small", action="store_true", help=f"{SMALL} runs, and no page")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--record-only", action="store_true")
    chosen = parser.parse_args()
    configs = grid(SMALL if chosen.small else COUNT)
    record(chosen.folder, configs, chosen.processes)
    if chosen.record_only:
        return
    from benchmarks.alerts.page import report

    report(chosen.folder, configs, small=chosen.small)


if __name__ == "__main__":
    sys.exit(main())
