"""Checks of arguments."""

from __future__ import annotations

import math
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from curvwatch.errors import CurvwatchError


def check_count(name: str, value: object, *, least: int) -> None:
    """Raise a ValueError unless `value` is a whole number of `least` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r}: a whole number of {least} or more is needed")


def check_positive(name: str, value: object) -> None:
    """Raise a ValueError unless `value` is a positive number, or None."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r}: a positive number is needed")


def check_has_values(module: nn.Module) -> None:
    """Raise a CurvwatchError unless all parameters and buffers of `module` have values."""
    for name, t in chain(module.named_parameters(), module.named_buffers()):
        check_values(name, t, f"the {type(module).__name__}")


def check_values(name: str, t: Tensor, where: str) -> None:
    """Raise a CurvwatchError unless `t` has values."""
    if is_lazy(t):
        raise CurvwatchError(
            f"{name} of {where} has no values yet: it is of a lazy layer, so call the module on a "
            "batch first"
        )
    if t.is_meta:
        raise CurvwatchError(f"{name} of {where} is on the meta device, which keeps no values")


def check_weights(name: str, t: Tensor, where: str) -> None:
    """Raise a CurvwatchError unless `t` is made of dense, real floating-point numbers."""
    check_values(name, t, where)
    if not t.is_floating_point() or t.layout is not torch.strided:
        raise CurvwatchError(
            f"{name} of {where} is {t.dtype}, {t.layout}: dense, real floating-point numbers are needed"
        )
