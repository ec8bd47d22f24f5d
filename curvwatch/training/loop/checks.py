"""Checks of what a loop is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from curvwatch.stability.wrappers import unwrap
from curvwatch.training.loop.run import LossFn


def check_optimizers(model: nn.Module, optimizer: Optimizer | Sequence[Optimizer]) -> list[Optimizer]:
    """The optimizers below transparent wrappers, as a list.

    Raises:
        ValueError: one is no optimizer, or has no parameter of `model`; `model` is no module.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model={model!r}: a torch.nn.Module is needed")
    given = list(optimizer) if isinstance(optimizer, (list, tuple)) else [optimizer]
    if not given:
        raise ValueError("optimizer=[]: at least one torch.optim.Optimizer is needed")
    weights = {id(p) for p in model.parameters()}
    bare = []
    for one in given:
        inner = one
        while unwrap(inner) is not inner:
            inner = unwrap(inner)
        if not isinstance(inner, Optimizer):
            raise ValueError(
                f"optimizer={type(one).__name__}: a torch.optim.Optimizer, or a list of them, is needed"
            )
        if weights.isdisjoint(id(p) for group in inner.param_groups for p in group["params"]):
            raise ValueError(
                f"{type(inner).__name__} holds no parameter of the model: give Watch the model that it "
                "trains (after fabric.setup, to(device) or fully_shard)"
            )
        bare.append(inner)
    return bare


def check_loss_fns(loss_fn: LossFn | Sequence[LossFn], count: int) -> list[LossFn]:
    """One for each optimizer.

    Raises:
        ValueError: one is no function, or there are more or fewer than optimizers.
    """
    fns: list[Any] = list(loss_fn) if isinstance(loss_fn, (list, tuple)) else [loss_fn] * count
    if not fns or not all(map(callable, fns)):
        raise ValueError(
            f"loss_fn={loss_fn!r}: a function of the model and a batch that returns the loss, or a "
            "list of them, one for each optimizer, is needed"
        )
    if len(fns) != count:
        raise ValueError(f"loss_fn has {len(fns)} functions for {count} optimizers: give one for each")
    return fns
