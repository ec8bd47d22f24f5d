"""Kinds of steps, batches, loaders and runs: bits with and without the monitor, and values."""

from __future__ import annotations

import pytest

from tests.compat.check import check_run, check_values
from tests.compat.rows import Row, with_twin
from tests.compat.steps import STEPS

# Lightning's own
pytestmark = pytest.mark.filterwarnings("ignore:`training_step` returned `None`")


@pytest.mark.parametrize("row", STEPS, ids=str)
def test_run(row: Row) -> None:
    check_run(row)


@pytest.mark.parametrize("row", with_twin(STEPS), ids=str)
def test_values(row: Row) -> None:
    check_values(row)
