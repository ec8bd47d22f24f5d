"""What was done to a gradient, found from the gradient alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from curvwatch.objective.flat_layout import Layout
from curvwatch.training.loop.gradient_check import GradientCheck

G = torch.randn(1000, generator=torch.Generator().manual_seed(1)).double()
OTHER = torch.randn(1000, generator=torch.Generator().manual_seed(2)).double()


@pytest.mark.parametrize(
    ("done", "expected"),
    [
        (lambda g: g * (1 + 5e-4), {"factor": 1.0}),  # rounding
        (lambda g: g * 0.01, {"factor": pytest.approx(0.01)}),
        (lambda g: g * 65536, {"factor": pytest.approx(65536)}),
        (lambda g: g + 0.04 * OTHER, {"factor": pytest.approx(1.0, abs=0.01)}),  # other kernels
        (lambda g: g.clamp(-0.5, 0.5), {"factor": None, "by_value": True}),
        (lambda g: 3 * g.clamp(-0.5, 0.5), {"factor": None, "by_value": False}),
        (lambda g: g + 0.2 * OTHER, {"factor": None, "across": pytest.approx(0.19, abs=0.01)}),
        (lambda g: -g, {"factor": None, "across": 0.0}),
        (lambda g: 0 * g, {"factor": 1.0}),  # no step either
        (lambda g: g * torch.nan, {"factor": 1.0}),  # told elsewhere
    ],
)
def test_what_was_done(done: Callable[[Tensor], Tensor], expected: dict[str, Any]) -> None:
    seen = GradientCheck.of(Layout.of([G]), G, done(G))
    assert {name: getattr(seen, name) for name in expected} == expected
