"""docs/compatibility.md says what the tests show, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from tests.compat.hooks import HOOKS, INDUCTOR
from tests.compat.layers import LAYERS
from tests.compat.precision import PRECISIONS
from tests.compat.rows import Row, values_cell
from tests.compat.steps import STEPS
from tests.support.paths import ROOT
from tests.training.lightning.test_no_trace_modules import CASES

TEXT = (ROOT / "docs/compatibility.md").read_text()
TABLES = {
    "Layers": LAYERS,
    "Steps, batches, loaders, runs": STEPS,
    "Precision": PRECISIONS,
    "Compiled parts and hooks": [*HOOKS, *INDUCTOR],
}


def cells(section: str, *, width: int = 4) -> list[list[str]]:
    """Of the tables with `width` columns below this heading, without their heads."""
    text = re.split(r"^## ", TEXT.partition(f"\n## {section}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in text.splitlines() if line.startswith("|") and "--" not in line]
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    return [row for row in rows if len(row) == width and row[0] not in ("row", "what")]


@pytest.mark.parametrize("section", TABLES)
def test_a_table_has_the_rows_that_are_tested(section: str) -> None:
    rows: Sequence[Row] = TABLES[section]
    told = [(name, bits, values) for name, bits, values, _ in cells(section)]
    assert told == [(row.name, "same", values_cell(row)) for row in rows]


def test_names_are_not_used_twice() -> None:
    names = [row.name for rows in TABLES.values() for row in rows]
    assert len(set(names)) == len(names)


def test_modules_that_remember_are_rows_of_their_own_test() -> None:
    named = [test.strip("`") for _, test, _ in cells("Modules with state", width=3)]
    assert len(named) > 10
    assert set(named) <= CASES.keys()


def test_each_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", TEXT)
    assert len(named) > 10
    for file, function in named:
        assert not function or f"def {function}(" in (ROOT / file).read_text(), function
