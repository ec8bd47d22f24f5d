"""The examples in the docstrings hold."""

import doctest
import sys

import pytest
import torch
from torch import nn

from curvwatch import landscape


@pytest.mark.parametrize(
    ("module", "count"),
    [
        ("paths.paths", 2),
        ("paths.interpolation", 3),
        ("alignment.align", 5),
        ("snapshots.callback", 2),
    ],
)
def test_examples_hold(module, count):
    names = {**{n: getattr(landscape, n) for n in landscape.__all__}, "torch": torch, "nn": nn}
    results = doctest.testmod(sys.modules[f"curvwatch.landscape.{module}"], extraglobs=names)
    assert results.attempted == count
    assert not results.failed
