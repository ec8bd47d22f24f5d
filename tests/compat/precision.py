"""Rows: precisions."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.amp import GradScaler

from tests.compat.rows import Row
from tests.support.modules import CLASSES, FEATURES, Classifier


def net() -> Classifier:
    """What autocast treats differently: matrix products, a norm, a loss."""
    layers = nn.Linear(FEATURES, 8), nn.Tanh(), nn.LayerNorm(8), nn.Dropout(0.2), nn.Linear(8, CLASSES)
    return Classifier(nn.Sequential(*layers))


def scaled(first_scale: float) -> dict[str, Any]:
    scaler = GradScaler("cpu", init_scale=first_scale, backoff_factor=2.0**-8)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}


PRECISIONS = [
    Row("32-true", net, options={"precision": "32-true"}, rtol=1e-4),
    Row("64-true", net, options={"precision": "64-true"}),
    Row("bf16-mixed", net, options={"precision": "bf16-mixed"}, rtol=0.03),
    Row("bf16-true", net, options={"precision": "bf16-true"}, rtol=0.03),
    Row("16-mixed, GradScaler", net, options=scaled(2.0**8), rtol=0.01),
    # the first scale overflows: the scaler leaves out that step
    Row(
        "16-mixed, a step that the GradScaler skips",
        net,
        options=scaled(2.0**20),
        skipped=(0,),
        rtol=0.01,
    ),
]
