"""The files of W&B's offline runs."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from math import inf, isfinite, nan
from pathlib import Path
from struct import Struct
from typing import Any

import numpy as np

from curvwatch.charts import is_density
from curvwatch.charts.histogram import Histogram
from curvwatch.errors import CurvwatchError
from curvwatch.report.logs.log import (
    Log,
    flatten,
    logged_alert,
    make_alerts,
    make_curve,
    make_density,
    make_histogram,
)
from curvwatch.report.logs.logged_run import LoggedAlert

# LevelDB's log format after 7 bytes of W&B's own
_MAGIC, _BLOCK = b":W&B", 32768
_HEAD = Struct("<IHB")
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_STEP, _TITLE = "trainer/global_step", "curvwatch: "
_NUMBERS = {'"NaN"': nan, '"Infinity"': inf, '"-Infinity"': -inf}


def read_wandb(files: Sequence[Path]) -> Log:
    """One run; several files, of a run that was resumed, are joined, and later values win.

    Raises:
        CurvwatchError: wandb is not installed.
    """
    run = _Run()
    for file in files:
        run.read(file)
    return run.log()


class _Run:
    def __init__(self) -> None:
        # of each row its step and time; of each metric its rows and values
        self._steps: list[int] = []
        self._times: list[float] = []
        self._series: dict[str, tuple[list[int], list[float]]] = {}
        # of each distribution its rows
        self._densities: dict[str, list[tuple[int, Histogram]]] = {}
        self._alerts: list[LoggedAlert] = []
        self._config: dict[str, Any] = {}
        self._problems: list[str] = []
        self._name = ""

    def read(self, file: Path) -> None:
        try:
            message = import_module("wandb.proto.wandb_internal_pb2").Record
        except ImportError as error:
            raise CurvwatchError("W&B runs need wandb: pip install 'curvwatch[wandb]'") from error
        problems: list[str] = []
        is_irrelevant = _irrelevant(message)
        for data in _records(file.read_bytes(), problems):
            if is_irrelevant(data):
                continue
            try:
                record = message.FromString(data)
            except Exception:  # of a newer W&B, perhaps
                problems.append("a record cannot be read and is left out")
                continue
            kind = record.WhichOneof("record_type")
            if kind == "history":
                self._add_values(record.history)
            elif kind == "run":
                self._name = record.run.display_name or self._name
                self._add_config(record.run.config.update)
            elif kind == "config":
                self._add_config(record.config.update)
            elif kind == "alert" and record.alert.title.startswith(_TITLE):
                rule = record.alert.title[len(_TITLE) :]
                step = self._steps[-1] if self._steps else 0
                self._alerts.append(logged_alert(rule, record.alert.text, step))
        self._problems += [f"{file.name}: {problem}" for problem in dict.fromkeys(problems)]

    def _add_values(self, history: Any) -> None:
        row: dict[str, float] = {}
        parts: dict[str, dict[str, str]] = {}
        for item in history.item:
            value = _number(item.value_json)
            if value is not None:
                keys = item.nested_key
                row[keys[0] if len(keys) == 1 else ".".join(keys) or item.key] = value
            elif len(item.nested_key) == 2 and is_density(item.nested_key[0]):
                parts.setdefault(item.nested_key[0], {})[item.nested_key[1]] = item.value_json
        step = row.pop(_STEP, row.get("_step"))
        if step is None or not isfinite(step):
            return
        at = len(self._steps)
        self._steps.append(int(step))
        self._times.append(row.get("_timestamp", row.get("_runtime", nan)))
        for name, part in parts.items():
            histogram = _histogram(part)
            if histogram is not None:
                self._densities.setdefault(name, []).append((at, histogram))
        for name, value in row.items():
            if name[0] != "_":
                series = self._series.get(name)
                if series is None:
                    series = self._series[name] = ([], [])
                series[0].append(at)
                series[1].append(value)

    def _add_config(self, updates: Any) -> None:
        for item in updates:
            name = "/".join(item.nested_key) or item.key
            if name != "_wandb":
                try:
                    self._config.update(flatten({name: json.loads(item.value_json)}))
                except ValueError:
                    self._config[name] = item.value_json

    def log(self) -> Log:
        steps, times = np.asarray(self._steps, dtype=np.int64), np.asarray(self._times)
        times = times - (nan if np.isnan(times).all() else np.nanmin(times))
        last = self._series.pop("epoch", None)
        epochs = None if last is None else make_curve(steps[last[0]], last[1])
        curves = {
            name: make_curve(steps[rows], values, times=times[rows], epochs=epochs)
            for name, (rows, values) in self._series.items()
        }
        alerts = make_alerts(self._alerts)
        densities = {
            name: make_density(
                [(int(steps[row]), float(times[row]), histogram) for row, histogram in rows],
                epochs=epochs,
            )
            for name, rows in self._densities.items()
        }
        return Log(curves, alerts, self._config, tuple(self._problems), self._name, densities)


def _irrelevant(message: Any) -> Callable[[bytes], object]:
    """Matches records of kinds that hold nothing for us, as half of them do: they are not parsed."""
    fields = message.DESCRIPTOR.fields_by_name
    numbers = [fields[kind].number for kind in ("summary", "stats", "output") if kind in fields]
    # the tag of a message is its number * 8 + 2, in one byte below 16
    tags = re.escape(bytes(number << 3 | 2 for number in numbers if number < 16))
    # in front of it there may be the number of the record
    return re.compile(b"(?:\\x08[\\x80-\\xff]*[\\x00-\\x7f])?[" + tags + b"]", re.DOTALL).match


def _histogram(parts: Mapping[str, str]) -> Histogram | None:
    """What wandb.Histogram wrote, in the parts "bins" and "values"."""
    try:
        return make_histogram(json.loads(parts["bins"]), json.loads(parts["values"]))
    except (KeyError, ValueError, TypeError):
        return None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # a text, an image, a histogram
        return _NUMBERS.get(text)


def _records(data: bytes, problems: list[str]) -> Iterator[bytes]:
    """Whole records; what keeps others from being read is added to `problems`."""
    if not data.startswith(_MAGIC):
        problems.append("is no W&B run" if data else "is empty")
        return
    at, parts = 7, b""
    while at + 7 <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < 7:
            at += left
            continue
        checksum, length, kind = _HEAD.unpack_from(data, at)
        part = data[at + 7 : at + 7 + length]
        at += 7 + length
        if len(part) < length:
            break
        if zlib.crc32(part, zlib.crc32(bytes([kind]))) != checksum:
            problems.append("is damaged: what comes after it in the same block is left out")
            at, parts = at - 7 - length, b""
            at += _BLOCK - at % _BLOCK
            continue
        parts = part if kind in (_WHOLE, _FIRST) else parts + part
        if kind in (_WHOLE, _LAST):
            yield parts
            parts = b""
    if at != len(data) or parts:
        problems.append("ends in the middle of a record: the run was cut off, or is still writing")
