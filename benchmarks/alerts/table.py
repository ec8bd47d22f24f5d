"""Detectors side by side: rows of figures, and what the presets are held to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.alerts import detectors
from benchmarks.alerts.detectors import Detector
from benchmarks.alerts.grid import KINDS, Config, Half
from benchmarks.alerts.label import FATES, Label, label
from benchmarks.alerts.record import Record, path_of
from benchmarks.alerts.rescue import ends_at, folder_of
from benchmarks.alerts.score import CALM, Score, score
from curvwatch.results.alerts import PRESETS

Runs = Sequence[tuple[Record, Label]]

DEFAULT = detectors.rules(PRESETS["default"])
FAMILIES: dict[str, Callable[[float], Detector]] = {
    "loss over {:.3g} x its running median": detectors.loss_spike,
    "gradient norm over {:.3g} x its running median": detectors.gradient_norm,
    "sharpness over {:.3g} x 2/lr": detectors.bare_sharpness,
}
_USUAL = ((2, 3, 5, 10), (3, 5, 10, 20), (1, 2, 4))
_FINE = np.geomspace(1, 100, 60)


def runs_of(folder: Path, configs: Iterable[Config], half: Half | None) -> Runs:
    """Records and labels of one half, or of all."""
    chosen = [config for config in configs if half in (None, config.half)]
    records = [Record.load(path_of(folder, config)) for config in chosen]
    return [(record, label(record)) for record in records]


def fates(runs: Runs) -> str:
    """How many runs there are of each fate."""
    counted = Counter(found.fate for _, found in runs)
    return ", ".join(f"{counted[fate]} {fate}" for fate in FATES if counted[fate])


HEAD = (
    *("alert", "before failure", "by then", "precision", "false / 1000 steps"),
    *("lead in steps (quartiles)", "before the loss doubled"),
)


def row(name: str, s: Score) -> tuple[str, ...]:
    """Of `HEAD`."""
    middle, low, high = s.lead
    return (
        name,
        f"{s.foresight:.2f}",
        f"{s.recall:.2f}",
        f"{s.precision:.2f}",
        f"{s.false_per_1000:.2f}",
        f"{middle:.3g} ({low:.3g} to {high:.3g}), {s.late} runs",
        f"{s.before_doubled} of {s.at_once}",
    )


def presets(runs: Runs) -> list[tuple[str, ...]]:
    """The default preset, and each rule by itself."""
    alone = [(r.name, detectors.rules([r], watch_finite=False)) for r in PRESETS["research"]]
    return [row(name, score(of, runs)) for name, of in (("**`default`**", DEFAULT), *alone)]


def baselines(runs: Runs) -> list[tuple[str, ...]]:
    """What is in use without curvwatch."""
    rows = [row("`EarlyStopping(check_finite=True)`", score(detectors.check_finite, runs))]
    for (text, family), usual in zip(FAMILIES.items(), _USUAL, strict=True):
        rows += [row(text.format(k), score(family(k), runs)) for k in usual]
    return rows


def rivals(runs: Runs) -> list[list[tuple[str, Score]]]:
    """Each baseline at all thresholds at which it is no more often wrong than the default preset."""
    allowed = score(DEFAULT, runs).false_per_1000
    families = []
    for text, family in FAMILIES.items():
        scores = [(text.format(k), score(family(k), runs)) for k in _FINE]
        families.append([(name, s) for name, s in scores if s.false_per_1000 <= allowed])
    return [quiet for quiet in families if quiet]


def kinds(runs: Runs) -> list[tuple[str, ...]]:
    """The default preset by what was done to the run."""
    rows = []
    for kind, text in KINDS.items():
        some = [(r, found) for r, found in runs if r.config.kind == kind]
        s = score(DEFAULT, some)
        lost = [found.fails for _, found in some if found.fate == "diverged"]
        lead = f"{s.lead[0]:.3g}, {s.late} runs" if s.late else ""
        of = f"{s.ahead} / {s.caught} of {len(lost)}" if lost else ""
        rows.append((f"{kind}: {text}", str(len(some)), of, lead, f"{s.false} in {s.calm_steps}"))
    return rows


@dataclass(frozen=True)
class Rescue:
    """What `lower_lr` on the default alerts did.

    Attributes:
        diverged: runs that diverge without it.
        saved: of these that do not with it.
        healthy: of these that end healthy, or at the edge.
        below: of these that end under half the loss that they began with.
        calm: runs that are healthy without it.
        touched: of these whose rates were lowered.
        worse: the losses that these end with, over those without it.
    """

    diverged: int
    saved: int
    healthy: int
    below: int
    calm: int
    touched: int
    worse: tuple[float, ...]


def touched(runs: Runs) -> list[Config]:
    """The runs that `lower_lr` would change, and those that diverge."""
    return [r.config for r, found in runs if found.fate == "diverged" or DEFAULT(r)]


def rescues(runs: Runs, folder: Path, factor: float) -> Rescue:
    """What became of `runs` with `lower_lr(factor)`."""
    again = folder_of(folder, factor)
    pairs = [
        (record, found, Record.load(path_of(again, record.config)))
        for record, found in runs
        if path_of(again, record.config).exists()
    ]
    lost = [(record, new) for record, found, new in pairs if found.fate == "diverged"]
    ends = [label(new).fate for _, new in lost]
    calm = [(record, new) for record, found, new in pairs if found.fate in CALM]
    return Rescue(
        diverged=len(lost),
        saved=sum(fate != "diverged" for fate in ends),
        healthy=sum(fate in (*CALM, "spiked", "shaken") for fate in ends),
        below=sum(ends_at(new) < 0.5 * new.loss[0] for _, new in lost),
        calm=sum(found.fate in CALM for _, found in runs),
        touched=len(calm),
        worse=tuple(ends_at(new) / ends_at(record) for record, new in calm),
    )
