"""Layers: bits with and without the monitor, and values against differences of gradients."""

from __future__ import annotations

import pytest

from tests.compat.check import check_run, check_values
from tests.compat.layers import LAYERS
from tests.compat.rows import Row, with_twin

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated"),
    # the pictures of what the hooks of old norms leave on their layers
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


@pytest.mark.parametrize("row", LAYERS, ids=str)
def test_run(row: Row) -> None:
    check_run(row)


@pytest.mark.parametrize("row", with_twin(LAYERS), ids=str)
def test_values(row: Row) -> None:
    check_values(row)
