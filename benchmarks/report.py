"""How results are told: bounds with a verdict, tables, and the machine they are of."""

from __future__ import annotations

import math
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table


@dataclass(frozen=True)
class Check:
    """A value and what it has to be.

    Attributes:
        what: was measured.
        value: of it.
        most: it may be; None: anything.
        least: it may be; None: anything.
        written: how a number is told.
        note: what else to know.
    """

    what: str
    value: float
    most: float | None = None
    least: float | None = None
    written: Callable[[float], str] = "{:.2f}".format
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the bounds are kept; nan keeps none."""
        low = -math.inf if self.least is None else self.least
        return low <= self.value <= (math.inf if self.most is None else self.most)

    def cells(self) -> list[str]:
        """What, value, bounds, verdict and note."""
        low, high = (None if b is None else self.written(b) for b in (self.least, self.most))
        bound = f"{low} to {high}" if low and high else f"<= {high}" if high else f">= {low}"
        verdict = "PASS" if self.passed else "missed"
        return [self.what, self.written(self.value), bound, verdict, self.note]


def checks_table(sections: Iterable[tuple[str, Sequence[Check]]]) -> Table:
    """For the terminal."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("bound", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("")
    for title, checks in sections:
        table.add_row(f"[bold]{title}[/bold]")
        for check in checks:
            what, value, bound, verdict, note = check.cells()
            colour = "green" if check.passed else "red"
            table.add_row(f"  {what}", value, bound, f"[{colour}]{verdict}[/{colour}]", f"[dim]{note}")
    return table


def checks_markdown(checks: Iterable[Check]) -> str:
    """The same as Markdown."""
    rows = [check.cells() for check in checks]
    return markdown_table(["", "measured", "bound", "", "note"], rows)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; short rows are filled up."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join([*row, *[""] * (len(head) - len(row))]) + " |" for row in rows]
    return "\n".join(lines)


def percent(value: float) -> str:
    """With two digits that count, and no more decimals than are of use."""
    if value >= 0.1:
        return f"{value:.0%}"
    if value >= 0.01:
        return f"{value:.1%}"
    return f"{value:.2%}" if value >= 0.001 else f"{value:.3%}"


def machine() -> str:
    """The computer and the versions, without a date."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists() and (found := re.search(r"model name\s*:\s*(.+)", info.read_text())):
        model = found[1]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    memory = ""
    if hasattr(os, "sysconf"):
        memory = (
            f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB of memory"
        )
    python = ".".join(map(str, sys.version_info[:2]))
    return (
        f"{model}, one thread of {os.cpu_count()}{memory}; {gpu}; "
        f"torch {torch.__version__}, Python {python}, {platform.system()}"
    )


def between(text: str, name: str, content: str) -> str:
    """`text` with what stands between the markers `name` replaced; they are added at the end."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    block = f"{begin}\n{content}\n{end}"
    if begin not in text:
        return f"{text.rstrip()}\n\n{block}\n"
    return re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: block, text, flags=re.DOTALL)
