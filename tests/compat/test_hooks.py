"""Compiled parts and hooks: bits with and without the monitor, and values."""

from __future__ import annotations

import shutil

import pytest

from tests.compat.check import check_run, check_values
from tests.compat.hooks import HOOKS, INDUCTOR
from tests.compat.rows import Row, with_twin

pytestmark = [
    # the pictures of an activation that a hook has kept
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    # torch's own, of its compiler
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),
]


@pytest.mark.parametrize("row", HOOKS, ids=str)
def test_run(row: Row) -> None:
    check_run(row)


@pytest.mark.parametrize("row", with_twin(HOOKS), ids=str)
def test_values(row: Row) -> None:
    check_values(row)


@pytest.mark.study
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("row", INDUCTOR, ids=str)
def test_inductor(row: Row) -> None:
    check_run(row)
    if row.values == "twin":
        check_values(row)
