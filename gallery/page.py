"""The pages of the gallery, in Markdown: all numbers are of the results files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from gallery.finding import Check, Finding, Made, Results

FOLDER = Path(__file__).parents[1] / "docs" / "gallery"
_MADE = "made"
_OUTCOMES = {True: "yes", False: "**no**"}


def results_file(finding: Finding, folder: Path = FOLDER) -> Path:
    """Where the results of `finding` are kept."""
    return folder / f"{finding.name}.json"


def read_results(finding: Finding, folder: Path = FOLDER) -> tuple[Results, Made]:
    """What its command wrote."""
    kept = json.loads(results_file(finding, folder).read_text(encoding="utf-8"))
    made = Made(**kept.pop(_MADE))
    return kept, made


def write_results(finding: Finding, results: Results, made: Made, folder: Path = FOLDER) -> None:
    """Keep `results`, a line for each entry, and first how they came about."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = {_MADE: asdict(made), **results}
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in kept.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    results_file(finding, folder).write_text(text, encoding="utf-8")


def page(finding: Finding, results: Results, made: Made) -> str:
    """The page of `finding`."""
    checks = finding.checks(results)
    rows = [f"| {c.claim} | {c.found} | {_OUTCOMES[c.holds]} |" for c in checks]
    return "\n".join(
        [
            f"# {finding.title}",
            "",
            f"**The claim.** {finding.claim}",
            "",
            f"Source: {finding.source}",
            "",
            f"**What is run.** {finding.setting}",
            "",
            "```bash",
            f"make gallery ONLY={finding.name}",
            "```",
            "",
            f"![{finding.alt}]({finding.name}.png)",
            "",
            "| the claim | found | agrees |",
            "|---|---|---|",
            *rows,
            "",
            *_changed(checks),
            finding.reading(results),
            "",
            f"All numbers are of [{finding.name}.json]({finding.name}.json), which the command wrote "
            f"in {_duration(made.seconds)} ({made.machine}).",
            "",
        ]
    )


def _changed(checks: Sequence[Check]) -> list[str]:
    """A warning where results no longer are what the words were written for."""
    changed = [check.claim for check in checks if check.holds != check.expected]
    if not changed:
        return []
    return [
        "**These results differ from those that the words below were written for**: "
        + "; ".join(changed)
        + ".",
        "",
    ]


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} minutes"


def index(findings: Sequence[Finding], results: Mapping[str, Results]) -> str:
    """The first page: a row for each finding that has results."""
    rows = []
    for finding in findings:
        if finding.name not in results:
            continue
        checks = finding.checks(results[finding.name])
        agreeing = sum(check.holds for check in checks)
        outcome = "all" if agreeing == len(checks) else f"{agreeing} of {len(checks)}"
        rows.append(f"| [{finding.title}]({finding.name}.md) | {outcome} |")
    return "\n".join(
        [
            "# Findings of the literature, reproduced with the callback",
            "",
            "Each page has a claim about loss landscapes, the command that tests it on a small",
            "network, the picture, and what agrees. `make gallery` runs all and writes these pages",
            "anew, `make gallery ONLY=NAME` runs one. Networks and data are small, so that each takes",
            "under ten minutes on two cores: a claim that does not show here may do so at size.",
            "",
            "| finding | statements that agree |",
            "|---|---|",
            *rows,
            "",
        ]
    )
