"""Runs, read from whatever logs they have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import nan
from pathlib import Path

from curvwatch.errors import CurvwatchError
from curvwatch.report.logs.csv import read_csv
from curvwatch.report.logs.find import FoundRun, find_runs, short_names, unique
from curvwatch.report.logs.log import Log, has_curvwatch, make_alerts, make_curve, make_density
from curvwatch.report.logs.logged_run import LoggedAlert, LoggedRun
from curvwatch.report.logs.tensorboard import read_tensorboard
from curvwatch.report.logs.wandb import read_wandb
from curvwatch.report.text import printable
from curvwatch.results import History


def read_runs(paths: Iterable[Path]) -> tuple[list[LoggedRun], list[str]]:
    """The runs at and below `paths`, and a line for each path that has none.

    A log that is damaged gives a run with what could be read of it, and the problems.
    """
    found, problems = find_runs(paths)
    names = short_names([run.path for run in found])
    runs = [read_run(run, name) for run, name in zip(found, names, strict=True)]
    # W&B's own names may come twice
    counts = Counter(run.name for run in runs)
    titles = [
        f"{run.name} ({name})" if counts[run.name] > 1 and run.name != name else run.name
        for run, name in zip(runs, names, strict=True)
    ]
    return [replace(run, name=title) for run, title in zip(runs, unique(titles), strict=True)], problems


def read_run(found: FoundRun, name: str) -> LoggedRun:
    """A run; of several logs the first that has metrics of curvwatch, else the first with any."""
    problems: list[str] = []
    logs: dict[str, Log] = {}
    for kind, files in found.logs:
        log = _read(kind, files, problems)
        if log is not None:
            logs[kind] = log
            if has_curvwatch(log.curves):
                break
    ranks = {k: (has_curvwatch(log.curves), bool(log.curves)) for k, log in logs.items()}
    kind = max(ranks, key=lambda k: ranks[k]) if ranks else found.logs[0][0]
    log = logs.get(kind, Log({}))
    problems += log.problems
    for other, read in logs.items():
        problems += () if other == kind else read.problems
    unread = [f"{files[0].name} ({k})" for k, files in found.logs if k != kind]
    if unread and log.curves:
        problems.append(f"read from its {kind} log; the folder also has {', '.join(unread)}")
    if logs and not log.curves:
        problems.append("there is no value in it")
    elif logs and not has_curvwatch(log.curves):
        problems.append("there is no metric of curvwatch in it (curvature/..., step/...)")
    return LoggedRun(
        name=log.name or name,
        path=found.path,
        kind=kind,
        curves=log.curves,
        alerts=log.alerts,
        hyperparameters=log.hyperparameters,
        problems=tuple(map(printable, problems)),
        densities=log.densities,
        doubtful=log.doubtful,
    )


def _read(kind: str, files: Sequence[Path], problems: list[str]) -> Log | None:
    try:
        return READERS[kind](files)
    except CurvwatchError as error:
        problems.append(str(error))
    except Exception as error:  # damaged in a way that no reader expects; others are still shown
        problems.append(f"{files[0].name} cannot be read: {type(error).__name__}: {error}")
    return None


def read_history(files: Sequence[Path]) -> Log:
    """One run from a file of `History.save`, which has no times.

    Raises:
        CurvwatchError: it is no such file, is damaged, or a newer curvwatch wrote it.
    """
    (file,) = files
    history = History.load(file)
    curves = {name: make_curve(*history[name]) for name in history}
    alerts = [LoggedAlert(alert.step, alert.rule, alert.text) for alert in history.alerts]
    densities = {
        name: make_density([(int(step), nan, histogram) for step, histogram in zip(*of, strict=True)])
        for name, of in history.densities.items()
    }
    return Log(curves, make_alerts(alerts), densities=densities, doubtful=history.doubtful)


READERS: dict[str, Callable[[Sequence[Path]], Log]] = {
    "tensorboard": read_tensorboard,
    "csv": read_csv,
    "wandb": read_wandb,
    "history": read_history,
}
