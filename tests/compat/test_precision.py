"""Precisions: bits with and without the monitor, and values against differences in float64."""

from __future__ import annotations

import pytest

from tests.compat.check import check_run, check_values
from tests.compat.precision import PRECISIONS
from tests.compat.rows import Row, with_twin


@pytest.mark.parametrize("row", PRECISIONS, ids=str)
def test_run(row: Row) -> None:
    check_run(row)


@pytest.mark.parametrize("row", with_twin(PRECISIONS), ids=str)
def test_values(row: Row) -> None:
    check_values(row)
