"""Detectors side by side, in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.alerts import detectors
from benchmarks.alerts.detectors import Detector
from benchmarks.alerts.grid import Config, Half
from benchmarks.alerts.label import label
from benchmarks.alerts.record import Record, path_of
from benchmarks.alerts.score import score
from curvwatch.alerts import PRESETS

DETECTORS: dict[str, Detector] = {
    "curvwatch, default": detectors.rules(PRESETS["default"]),
    "EarlyStopping(check_finite)": detectors.check_finite,
    **{f"loss over {k} x its median": detectors.loss_spike(k) for k in (2, 3, 5, 10)},
    **{f"gradient over {k} x its median": detectors.gradient_norm(k) for k in (3, 5, 10, 20)},
    **{f"sharpness over {k} x 2/lr": detectors.bare_sharpness(k) for k in (1, 2, 4)},
}


def print_scores(folder: Path, configs: Sequence[Config], half: Half) -> None:
    """The score of each detector on one half of the runs."""
    records = [Record.load(path_of(folder, config)) for config in configs if config.half == half]
    runs = [(record, label(record)) for record in records]
    console = Console()
    fates = Counter(found.fate for _, found in runs)
    console.print(f"{len(runs)} runs, {half}: {', '.join(f'{n} {fate}' for fate, n in fates.items())}")
    table = Table("detector", "recall", "precision", "false / 1000", "lead (quartiles)", "at once")
    for name, detector in DETECTORS.items():
        s = score(detector, runs)
        middle, low, high = s.lead
        table.add_row(
            name,
            f"{s.recall:.2f}",
            f"{s.precision:.2f}",
            f"{s.false_per_1000:.2f}",
            f"{middle:.0f} ({low:.0f} to {high:.0f})",
            f"{s.before_doubled} of {s.at_once}",
        )
    console.print(table)
