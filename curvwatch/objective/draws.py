"""Random numbers of a part of a batch: those that its examples have in the whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from curvwatch.objective.samples import Rows

_aten = torch.ops.aten


class DrawsOfWhole(TorchDispatchMode):
    """Lets operations that draw random numbers draw those of the whole batch, and takes the part's.

    Dropout and noise are then the same in parts as in one. An operation draws for the whole where the
    first dimension is that of the part, or a multiple (heads of attention, tokens); what cannot be
    told apart so differs, and is noticed where parts are compared with the whole.

    Args:
        rows: which examples the part has.
    """

    def __init__(self, rows: Rows) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rows = rows

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func`; where it draws, for the whole batch."""
        kwargs = kwargs or {}
        draw = _DRAWS.get(func.overloadpacket)
        if draw is None:
            return func(*args, **kwargs)
        return draw(self._rows, func, args, kwargs)


def _in_place(rows: Rows, func: Any, args: Any, kwargs: Any) -> Any:
    """`x.bernoulli_(p)` and its like: of dropout on the CPU, and of noise."""
    target = args[0]
    if not rows.fits(target.shape):
        return func(*args, **kwargs)
    whole = _whole_like(target, rows)
    func(whole, *args[1:], **kwargs)
    target.copy_(rows.cut(whole))
    return target


def _like(rows: Rows, func: Any, args: Any, kwargs: Any) -> Any:
    """`randn_like(x)` and its like."""
    if not rows.fits(args[0].shape):
        return func(*args, **kwargs)
    return rows.cut(func(_whole_like(args[0], rows), *args[1:], **kwargs)).clone()


def _of_size(rows: Rows, func: Any, args: Any, kwargs: Any) -> Any:
    """`randn(size)` and its like."""
    place = next((i for i, a in enumerate(args) if isinstance(a, (list, tuple))), None)
    if place is None or not rows.fits(args[place]):
        return func(*args, **kwargs)
    arguments = list(args)
    arguments[place] = rows.whole_shape(args[place])
    return rows.cut(func(*arguments, **kwargs)).clone()


def _fused_dropout(rows: Rows, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    """`native_dropout(x, p, train)`, of CUDA: gives the mask, too."""
    # by position, from autograd
    x, p, train = args
    if not train or not 0.0 < p < 1.0 or not rows.fits(x.shape):
        return func(*args, **kwargs)
    _, mask = func(torch.zeros_like(_whole_like(x, rows)), p, train)
    mask = rows.cut(mask).clone()
    return x * mask * (1.0 / (1.0 - p)), mask


def _whole_like(part: Tensor, rows: Rows) -> Tensor:
    # of the same order of dimensions in memory (channels last): numbers are drawn in that order
    order = sorted(range(part.ndim), key=lambda i: part.stride(i), reverse=True)
    shape = rows.whole_shape(part.shape)
    if order[0] != 0:
        return part.new_empty(shape)
    return torch.empty_permuted(shape, order, dtype=part.dtype, device=part.device)


_DRAWS = {
    _aten.bernoulli_: _in_place,
    _aten.normal_: _in_place,
    _aten.uniform_: _in_place,
    _aten.exponential_: _in_place,
    _aten.bernoulli: _like,
    _aten.rand_like: _like,
    _aten.randn_like: _like,
    _aten.rand: _of_size,
    _aten.randn: _of_size,
    _aten.native_dropout: _fused_dropout,
}
