"""TensorBoard's event files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from curvwatch.charts import is_density
from curvwatch.charts.histogram import Histogram
from curvwatch.errors import CurvwatchError
from curvwatch.report.logs.event_records import Scalars, alike_scalars, find_records, single_scalars
from curvwatch.report.logs.log import (
    Log,
    alerts_of_table,
    flatten,
    logged_alert,
    make_alerts,
    make_curve,
    make_density,
    make_histogram,
    read_hparams,
)
from curvwatch.report.logs.logged_run import LoggedAlert

# the table of all alerts, or one alert of the rule whose name is between them
_ALERTS, _TEXT = "curvwatch/alerts", "/text_summary"


class _File(NamedTuple):
    began: float
    scalars: list[Scalars]
    others: list[Any]
    problems: list[str]


def read_tensorboard(files: Sequence[Path]) -> Log:
    """One run; several files, of a run that was resumed, are joined, and later values win.

    Raises:
        CurvwatchError: tensorboard is not installed.
    """
    parts = sorted((_read_file(file) for file in files), key=lambda part: part.began)
    problems = [problem for part in parts for problem in part.problems]
    by_tag: dict[str, list[Scalars]] = {}
    for part in parts:
        for scalars in part.scalars:
            by_tag.setdefault(scalars.tag, []).append(scalars)
    joined = {tag: _join(pieces) for tag, pieces in by_tag.items()}
    # Lightning's place holder for a metric that was never set
    if "hp_metric" in joined and (joined["hp_metric"].values == -1).all():
        del joined["hp_metric"]
    begin = min((s.times.min() for s in joined.values()), default=0.0)
    last = joined.pop("epoch", None)
    epochs = None if last is None else make_curve(last.steps, last.values)
    curves = {
        tag: make_curve(s.steps, s.values, times=s.times - begin, epochs=epochs)
        for tag, s in joined.items()
    }
    twice = max((len(s.steps) - len(curves[tag].steps) for tag, s in joined.items()), default=0)
    if len(parts) > 1 and twice:
        problems.append(f"{len(parts)} event files have {twice} steps twice: later values are taken")
    others = [event for part in parts for event in part.others]
    densities = {
        tag: make_density(readings, epochs=epochs)
        for tag, readings in _densities(others, begin).items()
    }
    logged = {**flatten(read_hparams(files[0].parent)), **_hyperparameters(others)}
    for folder in sorted(files[0].parent.iterdir()):
        if is_hparams_folder(folder):
            for file in sorted(folder.glob("*tfevents*")):
                logged.update(_hyperparameters(_read_file(file).others))
    alerts = make_alerts(_alerts(others))
    return Log(curves, alerts, logged, tuple(problems), densities=densities)


def is_hparams_folder(folder: Path) -> bool:
    """Whether `SummaryWriter.add_hparams` made it: named by the time, inside the folder of a run."""
    seconds, _, rest = folder.name.partition(".")
    return len(seconds) >= 9 and seconds.isdecimal() and rest.isdecimal() and folder.is_dir()


def _read_file(file: Path) -> _File:
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError as error:
        raise CurvwatchError(
            "event files need tensorboard: pip install 'curvwatch[tensorboard]'"
        ) from error
    data = file.read_bytes()
    records = find_records(data)
    scalars, others = alike_scalars(data, records, Event.FromString)
    for event in others:
        scalars.extend(single_scalars(event, make_ndarray))
    began = others[0].wall_time if others else 0.0
    return _File(began, scalars, others, [f"{file.name}: {problem}" for problem in records.problems])


def _join(pieces: Sequence[Scalars]) -> Scalars:
    if len(pieces) == 1:
        return pieces[0]
    steps, values, times = (np.concatenate([piece[i] for piece in pieces]) for i in (1, 2, 3))
    order = np.argsort(times, kind="stable")
    return Scalars(pieces[0].tag, steps[order], values[order], times[order])


def _alerts(events: Iterable[Any]) -> Iterable[LoggedAlert]:
    for event in events:
        for value in event.summary.value:
            tag = value.tag
            if not (tag.startswith(_ALERTS) and tag.endswith(_TEXT)):
                continue
            text = b"".join(value.tensor.string_val).decode(errors="replace")
            rule = tag[len(_ALERTS) + 1 : -len(_TEXT)]
            if rule:
                yield logged_alert(rule, text, event.step)
            else:
                yield from alerts_of_table(text)


def _densities(events: Iterable[Any], begin: float) -> dict[str, list[tuple[int, float, Histogram]]]:
    """Steps, seconds since `begin` and histograms by tag, in the order in which they were written."""
    readings: dict[str, list[tuple[int, float, Histogram]]] = {}
    for event in events:
        for value in event.summary.value:
            if value.WhichOneof("value") == "histo" and is_density(value.tag):
                edges = [value.histo.min, *value.histo.bucket_limit]
                histogram = make_histogram(edges, value.histo.bucket)
                if histogram is not None:
                    reading = event.step, event.wall_time - begin, histogram
                    readings.setdefault(value.tag, []).append(reading)
    return readings


def _hyperparameters(events: Iterable[Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for event in events:
        for value in event.summary.value:
            if value.tag == "_hparams_/session_start_info":
                from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

                content = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                for name, stored in content.session_start_info.hparams.items():
                    kind = stored.WhichOneof("kind")
                    values[name] = getattr(stored, kind) if kind else None
    return values
