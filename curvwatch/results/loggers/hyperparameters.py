"""What an optimizer was set up with, as flat names and plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from curvwatch.charts.metric_names import group_suffixes

Value = float | str | bool
# how a step is computed, not which; "initial_lr" is what a scheduler keeps
_LEFT_OUT = {
    "params",
    "name",
    "foreach",
    "fused",
    "capturable",
    "differentiable",
    "maximize",
    "decoupled_weight_decay",  # AdamW is an Adam with it
    "initial_lr",
}


def hyperparameters(optimizers: Sequence[Optimizer], suffixes: Sequence[str]) -> dict[str, Value]:
    """`{"optimizer/class": "Adam", "optimizer/lr": 0.001, "optimizer/beta1": 0.9, ...}`.

    Several optimizers have their suffixes, `optimizer-Adam/lr`; what differs between the groups of one
    has theirs, `optimizer/lr/pg1`. A learning rate is the one that a schedule starts from.
    """
    found: dict[str, Value] = {}
    for optimizer, suffix in zip(optimizers, suffixes, strict=True):
        prefix = f"optimizer{suffix}/"
        found[prefix + "class"] = type(optimizer).__name__
        groups = [_of_group(group) for group in optimizer.param_groups]
        for key in dict.fromkeys(key for group in groups for key in group):
            values = [group.get(key) for group in groups]
            if all(value == values[0] for value in values):
                found[prefix + key] = groups[0][key]
                continue
            for value, group in zip(values, group_suffixes(optimizer), strict=True):
                if value is not None:
                    found[prefix + key + group] = value
    return found


def _of_group(group: Mapping[str, Any]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for key, given in {**group, "lr": group.get("initial_lr", group.get("lr"))}.items():
        if key in _LEFT_OUT:
            continue
        parts = {key: given}
        if isinstance(given, (tuple, list)):  # betas: beta1, beta2
            parts = {f"{key.removesuffix('s')}{i}": part for i, part in enumerate(given, start=1)}
        for name, part in parts.items():
            if isinstance(part, Tensor) and part.numel() == 1:
                part = part.item()
            if isinstance(part, (bool, str)):
                values[name] = part
            elif isinstance(part, (int, float)):
                values[name] = float(part)
    return values
