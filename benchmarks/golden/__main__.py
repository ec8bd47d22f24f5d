"""`python -m benchmarks.golden record FILE`, and `compare FILE` at a later commit.

Whether a change that is to change no reading, such as one of names and files, changed none: all values
of some short runs, compared bit for bit, on one machine and with the same versions of all packages.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch

from benchmarks.golden import lightning_runs, other_runs
from benchmarks.golden.values import Record, differences

RUNS: dict[str, Callable[[], Record]] = {
    run.__name__: run
    for run in (
        lightning_runs.momentum,
        lightning_runs.attention,
        lightning_runs.groups,
        lightning_runs.by_hand,
        lightning_runs.by_hand_heard,
        lightning_runs.processes,
        lightning_runs.accumulated,
        lightning_runs.evaluated,
        lightning_runs.everything,
        lightning_runs.chunked,
        lightning_runs.by_differences,
        lightning_runs.resumed,
        lightning_runs.doubtful,
        other_runs.watched,
        other_runs.settled,
        other_runs.saved,
        other_runs.optimizers,
        other_runs.landscape,
    )
}


def record(names: Iterable[str] = RUNS) -> dict[str, Any]:
    """The runs `names`, as JSON has them."""
    torch.set_num_threads(1)
    runs = {}
    for name in names:
        found = RUNS[name]()
        runs[name] = {kind: [list(cell) for cell in cells] for kind, cells in vars(found).items()}
        print(f"{name}: {len(found.values)} values, {len(found.words)} texts", flush=True)
    return {"made_on": _machine(), "runs": runs}


def compare(before: dict[str, Any], after: dict[str, Any], *, ignore_words: bool = False) -> int:
    """Print all differences of two records; 1 where there are any that count, else 0."""
    for name, value in before["made_on"].items():
        if after["made_on"].get(name) != value:
            print(f"other {name}: {value} -> {after['made_on'].get(name)}; readings may differ by it")
    old, new = before["runs"], after["runs"]
    empty: dict[str, list[Any]] = {"values": [], "words": []}
    runs = [*old, *(name for name in new if name not in old)]
    found = {
        kind: [
            d for r in runs for d in differences(r, old.get(r, empty)[kind], new.get(r, empty)[kind])
        ]
        for kind in ("values", "words")
    }
    for difference in found["values"]:
        print(difference)
    for difference in found["words"]:
        print(f"words differ: {difference}")
    counts = {kind: sum(len(run[kind]) for run in old.values()) for kind in found}
    print(
        f"{counts['values']} values and {counts['words']} texts of {len(old)} runs compared: "
        f"{len(found['values'])} values and {len(found['words'])} texts differ"
    )
    return int(bool(found["values"]) or (bool(found["words"]) and not ignore_words))


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.golden", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    recorder = commands.add_parser("record", help="write all readings to FILE")
    comparer = commands.add_parser("compare", help="compare the readings of now with those in FILE")
    for command in (recorder, comparer):
        command.add_argument("file", type=Path)
        command.add_argument("--only", nargs="+", choices=RUNS, help="of the runs")
    comparer.add_argument("--ignore-words", action="store_true", help="texts may differ")
    commands.add_parser("ranks", help="what `record` itself starts").add_argument("file", type=Path)
    chosen = parser.parse_args(arguments)
    if chosen.command == "ranks":
        lightning_runs.ranks(chosen.file)
        return 0
    logging.disable(logging.WARNING)  # of the alerts that fire
    names = chosen.only or RUNS
    if chosen.command == "record":
        chosen.file.write_text(json.dumps(record(names)))
        return 0
    before = json.loads(chosen.file.read_text())
    if chosen.only:
        before["runs"] = {name: before["runs"].get(name, {}) for name in chosen.only}
    return compare(before, record(names), ignore_words=chosen.ignore_words)


def _machine() -> dict[str, str]:
    packages = {m.__name__: str(m.__version__) for m in (torch, lightning, np)}
    cpu = torch.backends.cpu.get_cpu_capability()
    return {**packages, "python": platform.python_version(), "machine": platform.machine(), "cpu": cpu}


if __name__ == "__main__":
    sys.exit(main())
