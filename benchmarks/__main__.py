"""`python -m benchmarks [--quick] [NAMES]`: measure, print the bounds, write docs/performance.md.

Quick and partial runs show what works: quick ones measure the smallest network alone and write to
runs/benchmarks, those with names put the rest from the last run beside what they measure.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.report import Check, between, checks_markdown, checks_table, machine

NAMES = ("sharpness", "steps", "scale", "memory", "budget", "gpu")
ROOT = Path(__file__).parents[1]


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAMES", help=f"{', '.join(NAMES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small versions, in under 3 minutes")
    parser.add_argument("--redraw", action="store_true", help="measure nothing, tell the last results")
    parser.add_argument("--out", type=Path, help="folder; default: docs, or runs/benchmarks if quick")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.names if name not in NAMES]
    if unknown:
        parser.error(f"{unknown[0]!r}: one of {', '.join(NAMES)} is needed")
    out = chosen.out or ROOT / ("runs/benchmarks" if chosen.quick else "docs")
    (out / "images").mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    console = Console() if sys.stdout.isatty() else Console(width=110)
    results = _load(out)
    if not chosen.redraw:
        results["machine"] = machine()
        for name in chosen.names or NAMES:
            begin = time.perf_counter()
            with _progress(console) as progress:
                results[name] = _module(name).run(progress, quick=chosen.quick)
            _write_json(out, results)
            console.print(f"[dim]{name}: {time.perf_counter() - begin:.0f} s")
    sections = _told(out, results)
    console.print(checks_table(sections))
    missed = [check for _, checks in sections for check in checks if not check.passed]
    console.print(f"{len(missed)} bounds missed; wrote {out / 'performance.md'}")


def _told(out: Path, results: dict[str, Any]) -> list[tuple[str, list[Check]]]:
    """Write the document and the picture; all bounds, by section."""
    page = out / "performance.md"
    text = (Path(__file__).parent / "page.md").read_text()
    text = between(text, "machine", results.get("machine", ""))
    sections = []
    for name in NAMES:
        if name not in results:
            text = between(text, name, "\nNot measured yet.\n")
            continue
        module = _module(name)
        checks = list(module.checks(results[name]))
        sections.append((module.TITLE, checks))
        table = f"{checks_markdown(checks)}\n\n" if checks else ""
        text = between(text, name, f"\n{table}{module.markdown(results[name])}\n")
    page.write_text(text)
    if "sharpness" in results:
        from benchmarks.picture import drawn

        drawn(results["sharpness"]).savefig(out / "images" / "performance.png", dpi=110)
    return sections


def _load(out: Path) -> dict[str, Any]:
    path = out / "performance.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _write_json(out: Path, results: dict[str, Any]) -> None:
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in results.items()]
    (out / "performance.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.{name}")


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:>24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


if __name__ == "__main__":
    main()
