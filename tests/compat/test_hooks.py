"""Compiled parts and hooks: bits with and without the monitor, and values."""

from __future__ import annotations

import shutil

import pytest

from tests.compat.check import check_run, check_values
from tests.compat.hooks import HOOKS, INDUCTOR
from tests.compat.rows import Row, with_twin
from tests.support.studies import without

pytestmark = [
    # the pictures of an activation that a hook has kept
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    # torch's own, of its compiler
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),
]


# compiled code runs eagerly in a reading, whichever part of a module it is; that it leaves no trace is
# checked of all
LIKE_ANOTHER = (
    "torch.compile of a submodule: eager",
    "module.compile()",
    "trainer.fit(torch.compile(module))",
    "a list of the module's class",
    "torch.compile of the loss",
)


# but for one of two compilers
@pytest.mark.parametrize(
    "row", without(HOOKS, leave=["torch.compile of a submodule: eager"], key=str), ids=str
)
def test_run(row: Row) -> None:
    check_run(row)


@pytest.mark.parametrize("row", without(with_twin(HOOKS), leave=LIKE_ANOTHER, key=str), ids=str)
def test_values(row: Row) -> None:
    check_values(row)


@pytest.mark.study
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("row", INDUCTOR, ids=str)
def test_inductor(row: Row) -> None:
    check_run(row)
    if row.values == "twin":
        check_values(row)
