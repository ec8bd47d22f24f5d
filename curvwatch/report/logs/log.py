"""The contents of a run's log, the same for all readers, and how these make curves of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from curvwatch.charts.histogram import Histogram
from curvwatch.report.logs.logged_run import LoggedAlert, LoggedCurve, LoggedDensity

CURVWATCH = (
    "curvature/",
    "step/",
    "gauss_newton/",
    "fisher/",
    "gradient/noise_",
    "gradient/signal",
)


class Log(NamedTuple):
    """The contents of one log, as those of `LoggedRun`; `name`: the run's own, where it has one."""

    curves: Mapping[str, LoggedCurve]
    alerts: tuple[LoggedAlert, ...] = ()
    hyperparameters: Mapping[str, Any] = {}
    problems: tuple[str, ...] = ()
    name: str = ""
    densities: Mapping[str, LoggedDensity] = {}
    doubtful: Mapping[str, Collection[int]] = {}


def has_curvwatch(curves: Iterable[str]) -> bool:
    """Whether a metric of curvwatch is among the names of `curves`."""
    return any(name.startswith(CURVWATCH) for name in curves)


def make_curve(
    steps: Sequence[int] | np.ndarray,
    values: Sequence[float] | np.ndarray,
    *,
    times: np.ndarray | None = None,
    epochs: LoggedCurve | None = None,
) -> LoggedCurve:
    """Values in the order in which they were written, as a curve; of one step the last one counts.

    Args:
        steps: (n,) of each value.
        values: (n,).
        times: (n,) seconds; None: the log has none.
        epochs: what the log says of epochs; a value gets the one that was logged last.
    """
    at, logged = np.asarray(steps, dtype=np.int64), np.asarray(values, dtype=np.float64)
    times = np.full(len(at), np.nan) if times is None else np.asarray(times, dtype=np.float64)
    if (at[1:] <= at[:-1]).any():
        kept = _in_order(at)
        at, logged, times = at[kept], logged[kept], times[kept]
    return LoggedCurve(at, logged, times, _epochs_at(at, epochs))


def make_density(
    readings: Sequence[tuple[int, float, Histogram]], *, epochs: LoggedCurve | None = None
) -> LoggedDensity:
    """Readings in the order in which they were written, as a curve of histograms.

    Args:
        readings: steps, seconds and histograms, at least one; of one step the last one counts.
        epochs: as for `make_curve`.
    """
    at = np.asarray([step for step, _, _ in readings], dtype=np.int64)
    kept = _in_order(at)
    times = np.asarray([time for _, time, _ in readings], dtype=np.float64)[kept]
    histograms = tuple(readings[i][2] for i in kept)
    return LoggedDensity(at[kept], histograms, times, _epochs_at(at[kept], epochs))


def make_histogram(edges: Sequence[float], weights: Sequence[float]) -> Histogram | None:
    """A histogram as a log has it; None: it cannot be drawn."""
    at, mass = np.asarray(edges, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if not len(at) == len(mass) + 1 >= 2:
        return None
    finite = bool(np.isfinite(at).all() and np.isfinite(mass).all())
    return Histogram(at, mass) if finite and (np.diff(at) > 0).all() and (mass >= 0).all() else None


def _in_order(steps: np.ndarray) -> np.ndarray:
    """(m,) positions in the order of `steps`, of one that comes again the last."""
    order: np.ndarray = np.argsort(steps, kind="stable")
    return order[np.append(np.diff(steps[order]) != 0, True)] if len(steps) else order


def make_alerts(alerts: Iterable[LoggedAlert]) -> tuple[LoggedAlert, ...]:
    """In the order of their steps, each once: a resumed run may log one again."""
    return tuple(sorted(dict.fromkeys(alerts), key=lambda alert: alert.step))


def logged_alert(rule: str, text: str, step: int) -> LoggedAlert:
    """An alert, without the "step 12: " in front of its text, which goes before `step`."""
    prefix = re.match(r"step (\d+): ", text)
    if prefix is None:
        return LoggedAlert(step, rule, text)
    return LoggedAlert(int(prefix[1]), rule, text[prefix.end() :])


def alerts_of_table(text: str) -> Iterator[LoggedAlert]:
    """The alerts of a Markdown table with the columns step, rule, metric, value and meaning."""
    for line in text.splitlines():
        cells = [_unescape(cell.strip()) for cell in line.strip()[1:-1].split(" | ")]
        if len(cells) == 5 and cells[0].isdecimal():
            yield LoggedAlert(int(cells[0]), cells[1], cells[4])


def _unescape(text: str) -> str:
    return unescape(re.sub(r"\\(.)", r"\1", text))


def _epochs_at(steps: np.ndarray, epochs: LoggedCurve | None) -> np.ndarray:
    if epochs is None or not len(epochs.steps):
        return np.full(len(steps), np.nan)
    last = np.searchsorted(epochs.steps, steps, side="right") - 1
    return epochs.values[np.maximum(last, 0)]


def _as_plain_data(loader: Any, _: str, node: Any) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return node.value


# tuples, paths and other objects of Python become plain lists, dicts and texts
_Loader: Any = type("_Loader", (yaml.SafeLoader,), {})
_Loader.add_multi_constructor("", _as_plain_data)


def read_hparams(folder: Path) -> Mapping[str, Any]:
    """The hyperparameters of `folder`/hparams.yaml; none where it is missing or damaged."""
    try:
        text = (folder / "hparams.yaml").read_text(encoding="utf-8", errors="replace")
        values = yaml.load(text, Loader=_Loader)
    except (OSError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def flatten(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with names such as "optimizer/lr"."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            result.update(flatten(value, f"{prefix}{name}/"))
        else:
            result[f"{prefix}{name}"] = value
    return result
