"""The metrics.csv of Lightning's CSVLogger."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from curvwatch.report.logs.log import Log, make_curve


def _plain(loader: Any, _: str, node: Any) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return node.value


# reads tuples, paths and other objects of Python as plain lists, dicts and texts
_Loader: Any = type("_Loader", (yaml.SafeLoader,), {})
_Loader.add_multi_constructor("", _plain)


def read_hparams(folder: Path) -> Mapping[str, Any]:
    """What `folder`/hparams.yaml says; nothing where it is missing or damaged."""
    try:
        text = (folder / "hparams.yaml").read_text(encoding="utf-8", errors="replace")
        found = yaml.load(text, Loader=_Loader)
    except (OSError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def flat(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with names such as "optimizer/lr"."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            result.update(flat(value, f"{prefix}{name}/"))
        else:
            result[f"{prefix}{name}"] = value
    return result


def read_csv(files: Sequence[Path]) -> Log:
    """One run; the log has no times and no alerts."""
    (file,) = files
    header, rows, problems = _table(file)
    problems = [f"{file.name}: {problem}" for problem in problems]
    hyperparameters = flat(read_hparams(file.parent))
    if "step" not in header:
        problems.append(f"{file.name}: there is no column 'step', so it is not read")
        return Log({}, (), hyperparameters, tuple(problems))
    place = header.index("step")
    numbers = [_number(row[place]) for row in rows]
    known = [i for i, step in enumerate(numbers) if step is not None and math.isfinite(step)]
    if len(known) < len(rows):
        problems.append(f"{file.name}: {len(rows) - len(known)} rows without a step are left out")
        rows = [rows[i] for i in known]
    steps = [int(numbers[i] or 0) for i in known]
    logged: dict[str, tuple[list[int], list[float]]] = {}
    for i, name in enumerate(header):
        cells = [(step, row[i]) for step, row in zip(steps, rows, strict=True) if row[i]]
        try:
            values = [float(cell) for _, cell in cells]
        except ValueError:
            written = len(cells)
            cells = [(step, cell) for step, cell in cells if _number(cell) is not None]
            values = [float(cell) for _, cell in cells]
            problems.append(f"{file.name}: {written - len(cells)} cells of {name!r} hold no number")
        if cells and i != place:
            logged[name] = [step for step, _ in cells], values
    epochs = make_curve(*logged.pop("epoch")) if "epoch" in logged else None
    curves = {name: make_curve(*curve, epochs=epochs) for name, curve in logged.items()}
    return Log(curves, (), hyperparameters, tuple(problems))


def _table(file: Path) -> tuple[list[str], list[list[str]], list[str]]:
    """Header, whole rows, and what is wrong with the others."""
    text = file.read_text(encoding="utf-8-sig", errors="replace").replace("\0", "")
    header, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
    problems = []
    if rows and not text.endswith(("\n", "\r")):
        # even one of full length may lack digits
        rows.pop()
        problems.append("the last row is half-written and left out")
    rows = [row for row in rows if row]
    whole = [row for row in rows if len(row) == len(header)]
    if len(whole) < len(rows):
        problems.append(
            f"{len(rows) - len(whole)} rows are left out, for they do not have the "
            f"{len(header)} fields of the header"
        )
    return header, whole, problems


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
