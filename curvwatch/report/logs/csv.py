"""The metrics.csv of Lightning's CSVLogger."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from curvwatch.report.logs.log import Log, flatten, make_curve, read_hparams


def read_csv(files: Sequence[Path]) -> Log:
    """One run; the log has no times and no alerts."""
    (file,) = files
    header, rows, problems = _table(file)
    problems = [f"{file.name}: {problem}" for problem in problems]
    hyperparameters = flatten(read_hparams(file.parent))
    if "step" not in header:
        problems.append(f"{file.name}: there is no column 'step', so it is not read")
        return Log({}, (), hyperparameters, tuple(problems))
    step_column = header.index("step")
    numbers = [_number(row[step_column]) for row in rows]
    with_step = [i for i, step in enumerate(numbers) if step is not None and math.isfinite(step)]
    if len(with_step) < len(rows):
        problems.append(f"{file.name}: {len(rows) - len(with_step)} rows without a step are left out")
        rows = [rows[i] for i in with_step]
    steps = [int(numbers[i] or 0) for i in with_step]
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
        if cells and i != step_column:
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
