"""Directions scaled as the weights are: by filter, by layer, or as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from curvwatch.landscape.surface import Group

Normalize = Literal["filter", "layer", "none"]


def rows_of(
    groups: Sequence[Group], size: int, how: Normalize, *, keep_1d: bool
) -> Iterator[tuple[slice, int]]:
    """Where in a flat vector there are rows that are scaled each by itself, and how many.

    Args:
        groups: the parameters.
        size: of the flat vector.
        how: "filter": a row is an output row of a parameter of two or more dimensions; "layer": it is a
            whole parameter; "none": all weights are one row.
        keep_1d: whether parameters of fewer than two dimensions (biases, the scales of norms) are a row
            each; else they are left out. "none" leaves out nothing.
    """
    if how == "none":
        yield slice(0, size), 1
        return
    for group in groups:
        if group.size == 0:
            continue
        if len(group.shape) >= 2:
            yield group.slice, group.shape[0] if how == "filter" else 1
        elif keep_1d:
            yield group.slice, 1


def normalized(
    directions: Tensor,
    weights: Tensor,
    groups: Sequence[Group],
    *,
    how: Normalize,
    keep_1d: bool = False,
) -> tuple[Tensor, int]:
    """One or two directions with rows as long as those of the weights, and orthogonal in each row.

    d_ij <- d_ij |w_ij| / |d_ij| (Li et al. 2018); with "none" the whole is a unit vector.
    The second direction loses its part along the first in each row before it is scaled, so the two are
    orthogonal in each row, thus on the whole. A row of a single entry has no second direction, and is
    zero there.

    Args:
        directions: (k, size), k 1 or 2.
        weights: (size,) that give the lengths.
        groups: the parameters.
        how: what is a row.
        keep_1d: whether parameters of fewer than two dimensions are rows, else they become zero.

    Returns:
        Directions (k, size) in float64, and how many rows were left out of the second.
    """
    result = torch.zeros_like(directions, dtype=torch.float64)
    single = 0
    for place, rows in rows_of(groups, weights.numel(), how, keep_1d=keep_1d):
        d = directions[:, place].double().reshape(len(directions), rows, -1)
        w = weights[place].double().reshape(rows, -1)
        lengths = torch.ones(1, 1, dtype=w.dtype, device=w.device)
        if how != "none":
            lengths = w.norm(dim=1, keepdim=True)
        result[0, place] = (_unit(d[0]) * lengths).reshape(-1)
        if len(d) == 1:
            continue
        if w.shape[1] == 1:
            single += rows
            continue
        result[1, place] = (_unit(_across(d[1], _unit(d[0]))) * lengths).reshape(-1)
    return result, single


def _across(d: Tensor, unit: Tensor) -> Tensor:
    """`d` less its part along `unit` in each row; nothing where that is all but rounding."""
    before = d.norm(dim=1, keepdim=True)
    for _ in range(2):  # twice is enough (Kahan, in Parlett 1998)
        d = d - (d * unit).sum(dim=1, keepdim=True) * unit
    return torch.where(d.norm(dim=1, keepdim=True) > 1e-12 * before, d, torch.zeros_like(d))


def _unit(d: Tensor) -> Tensor:
    """The rows of `d` at length 1; zero stays zero."""
    length = d.norm(dim=1, keepdim=True)
    return torch.where(length > 0, d / length, torch.zeros_like(d))
