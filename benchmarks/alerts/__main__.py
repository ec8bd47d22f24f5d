"""`python -m benchmarks.alerts`: record the grid, and score all detectors on one half of it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from benchmarks.alerts.grid import COUNT, SMALL, Half, grid
from benchmarks.alerts.table import print_scores
from benchmarks.alerts.workers import record

FOLDER = Path("runs/alerts")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alerts", description=__doc__)
    parser.add_argument("--small", action="store_true", help=f"{SMALL} runs")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--half", choices=get_args(Half), default="tuning")
    chosen = parser.parse_args()
    configs = grid(SMALL if chosen.small else COUNT)
    record(chosen.folder, configs, chosen.processes)
    print_scores(chosen.folder, configs, chosen.half)


if __name__ == "__main__":
    sys.exit(main())
