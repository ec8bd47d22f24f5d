"""docs/alerts.md and what is printed, from the records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.alerts import table
from benchmarks.alerts.label import FATES
from benchmarks.alerts.rescue import FACTOR
from benchmarks.alerts.score import score
from benchmarks.alerts.table import HEAD, Runs
from benchmarks.report import between

# the bars: share with an alert, lead in steps, false alarms in 1000 steps
TOLD, LEAD, FALSE = 0.95, 10.0, 0.2


def show(runs: Runs) -> None:
    """All detectors in the terminal."""
    console = Console()
    console.print(f"{len(runs)} runs: {table.fates(runs)}")
    printed = Table(*HEAD)
    for cells in table.presets(runs) + table.baselines(runs):
        printed.add_row(*cells)
    console.print(printed)


def write(page: Path, runs: Runs, folder: Path) -> None:
    """The page of alerts, its figures new."""
    template = Path(__file__).parent / "page.md"
    text = template.read_text()
    sections = {
        "runs": f"{len(runs)} runs: {table.fates(runs)}. "
        + "; ".join(f"*{fate}*: {told}" for fate, told in FATES.items())
        + ".",
        "bars": _markdown(("bound", "measured", ""), _bars(runs)),
        "presets": _markdown(HEAD, table.presets(runs)),
        "baselines": _markdown(HEAD, table.baselines(runs)),
        "rivals": _markdown(HEAD, _rivals(runs)),
        "kinds": _markdown(_KINDS, table.kinds(runs)),
        "rescues": _rescues(runs, folder),
    }
    for name, content in sections.items():
        text = between(text, name, f"\n{content}\n")
    page.write_text(text)


_KINDS = (
    *("runs, and what was done to them", "number", "alert before / by then, of those that diverged"),
    *("median lead of late failures", "false alarms in steps"),
)


def _bars(runs: Runs) -> list[tuple[str, ...]]:
    s = score(table.DEFAULT, runs)
    others = [other for quiet in table.rivals(runs) for _, other in quiet]
    ahead = max((other.foresight for other in others), default=0.0)
    by_then = max((other.recall for other in others), default=0.0)
    checks = [
        (
            f"an alert before {TOLD:.0%} of the failures of runs that diverge",
            s.foresight,
            s.foresight >= TOLD,
        ),
        ("the same by then, at the step whose loss is the failure", s.recall, s.recall >= TOLD),
        (
            f"a median lead of {LEAD:.0f} steps where a run fails after 50 healthy steps",
            f"{s.lead[0]:.3g} steps, {s.late} runs",
            s.lead[0] >= LEAD,
        ),
        (
            "an alert before the loss has doubled where it fails at once",
            f"{s.before_doubled} of {s.at_once}",
            s.before_doubled == s.at_once,
        ),
        (
            "at most 1 false alarm in 5000 steps of healthy runs",
            f"{s.false} in {s.calm_steps}",
            s.false_per_1000 <= FALSE,
        ),
        (
            "an alert before more failures than each baseline with as few false alarms",
            f"{s.foresight:.2f} against {ahead:.2f}",
            s.foresight > ahead,
        ),
        (
            "the same by then",
            f"{s.recall:.2f} against {by_then:.2f}",
            s.recall > by_then,
        ),
    ]
    return [
        (text, value if isinstance(value, str) else f"{value:.2f}", "PASS" if passed else "missed")
        for text, value, passed in checks
    ]


def _rivals(runs: Runs) -> list[tuple[str, ...]]:
    own = table.row("**`default`**", score(table.DEFAULT, runs))
    best = [max(quiet, key=lambda found: found[1].foresight) for quiet in table.rivals(runs)]
    return [own, *(table.row(name, s) for name, s in best)]


def _rescues(runs: Runs, folder: Path) -> str:
    r = table.rescues(runs, folder, FACTOR)
    worse = ", ".join(f"{ratio:.2f}" for ratio in r.worse) or "none"
    rows = [
        ("runs that diverge without it", str(r.diverged)),
        ("of these, do not diverge with it", f"{r.saved} ({r.saved / max(1, r.diverged):.0%})"),
        ("of these, end healthy: they do not diverge and are not stuck", str(r.healthy)),
        ("of these, end under half the loss they began with", str(r.below)),
        ("healthy runs, and those at the edge", str(r.calm)),
        ("of these, whose learning rate was lowered for nothing", str(r.touched)),
        ("the loss these end with, over that without it", worse),
    ]
    return _markdown((f"`lower_lr({FACTOR})` on the default alerts", "runs"), rows)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
