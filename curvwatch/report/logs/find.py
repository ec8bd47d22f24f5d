"""Where runs are: below folders, each once, with short names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from curvwatch.report.logs.tensorboard import is_hparams_folder
from curvwatch.report.text import natural, printable
from curvwatch.results import HISTORY_SUFFIX

LOGS = f"TensorBoard event files, metrics.csv, run-*.wandb, *{HISTORY_SUFFIX}"


@dataclass(frozen=True)
class FoundRun:
    """A run as `find_runs` finds it: nothing is read yet.

    Attributes:
        path: its folder; its file where that is all.
        logs: a kind of log and its files, the one to be preferred first.
    """

    path: Path
    logs: tuple[tuple[str, tuple[Path, ...]], ...]


def find_runs(paths: Iterable[Path]) -> tuple[list[FoundRun], list[str]]:
    """The runs at and below `paths`, each once, and a line for each path that has none."""
    by_path: dict[Path, FoundRun] = {}
    problems: list[str] = []
    for path in paths:
        if path.is_dir():
            here = _below(path, problems)
            if not here:
                problems.append(f"{printable(path)}: no run in it ({LOGS})")
        elif path.exists():
            kind = kind_of(path)
            here = [FoundRun(path, ((kind, (path,)),))] if kind else []
            if not here:
                problems.append(f"{printable(path)}: no log that curvwatch reads ({LOGS})")
        else:
            here = []
            problems.append(f"{printable(path)}: there is no such file or folder")
        for run in here:
            by_path.setdefault(run.path.resolve(), run)
    return list(by_path.values()), problems


def kind_of(file: Path) -> str | None:
    """The kind of log that a file seems to be by its name."""
    name = file.name
    if "tfevents" in name and not name.endswith(".profile-empty"):
        return "tensorboard"
    if name.endswith((".csv", ".wandb", ".json")):
        return {".csv": "csv", ".wandb": "wandb", ".json": "history"}[file.suffix]
    return None


def _below(top: Path, problems: list[str]) -> list[FoundRun]:
    runs: list[FoundRun] = []
    wandb: dict[tuple[Path, str], list[Path]] = {}

    def note(error: OSError) -> None:
        problems.append(f"{printable(error.filename)}: {error.strerror}")

    for folder, subfolders, names in os.walk(top, onerror=note):
        subfolders.sort(key=natural)
        here = Path(folder)
        files = [here / name for name in sorted(names, key=natural)]
        events = tuple(file for file in files if kind_of(file) == "tensorboard")
        table = tuple(file for file in files if file.name == "metrics.csv")
        histories = [
            file for file in files if file.name.endswith(HISTORY_SUFFIX) and file.name[0] != "."
        ]
        for file in files:
            if file.name.startswith("run-") and kind_of(file) == "wandb":
                # a run that was resumed has one folder more, and the same file name
                wandb.setdefault((here.parent, file.name), []).append(file)
        if events:
            # they are read with the run that they are in
            subfolders[:] = [name for name in subfolders if not is_hparams_folder(here / name)]
        logs = [("tensorboard", events), ("csv", table)]
        if len(histories) == 1 and (events or table):
            logs.append(("history", tuple(histories)))
        else:
            runs.extend(FoundRun(file, (("history", (file,)),)) for file in histories)
        if events or table:
            runs.append(FoundRun(here, tuple((kind, files) for kind, files in logs if files)))
    runs.extend(FoundRun(files[0].parent, (("wandb", tuple(files)),)) for files in wandb.values())
    return runs


def short_names(paths: Sequence[Path]) -> list[str]:
    """Unique names: what is left of each path without the parts that all have, front and back."""
    whole = [path.resolve() for path in paths]
    parts = [[*path.parts[:-1], path.name.removesuffix(HISTORY_SUFFIX) or path.name] for path in whole]
    for end in (0, -1) if len(parts) > 1 else ():
        while all(len(p) > 1 for p in parts) and len({p[end] for p in parts}) == 1:
            parts = [[*p[1:]] if end == 0 else [*p[:-1]] for p in parts]
    if len(parts) == 1:
        parts = [parts[0][-1:]]
    return unique(["/".join(part) for part in parts])


def unique(names: Sequence[str]) -> list[str]:
    """`names`, with numbers behind those that come again."""
    repeats: Counter[str] = Counter()
    result: list[str] = []
    for name in names:
        candidate = name
        while candidate in result or (repeats[name] and candidate == name):
            repeats[name] += 1
            candidate = f"{name} ({repeats[name] + 1})"
        result.append(candidate)
    return result
