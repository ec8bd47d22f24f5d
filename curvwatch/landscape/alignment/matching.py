"""Weight matching: permutations of hidden units that bring one network near another."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from curvwatch.errors import CurvwatchError
from curvwatch.landscape.alignment.units import Spec

# a gain below this part of |a||b| is rounding
_GAIN = 1e-12


@dataclass(frozen=True)
class Places:
    """Where each permutation acts.

    Attributes:
        axes: of each permutation, the tensors and axes.
        sizes: how many units each permutes.
    """

    axes: Mapping[str, tuple[tuple[str, int], ...]]
    sizes: Mapping[str, int]

    @cached_property
    def followed(self) -> Mapping[str, list[tuple[int, str]]]:
        """Of each tensor, the axes and the permutations that they follow."""
        found: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for p, places in self.axes.items():
            for name, axis in places:
                found[name].append((axis, p))
        return dict(found)

    @classmethod
    def of(cls, spec: Spec, state: Mapping[str, Tensor]) -> Places:
        """The places that `spec` names in `state`.

        A permutation has as many units as its shortest axis; an axis that is k times as long holds a
        block of k entries for each, as a flattened channel does.

        Raises:
            CurvwatchError: a name, a number of axes or a length does not fit.
        """
        axes: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for name, permutations in spec.items():
            if name not in state:
                raise CurvwatchError(
                    f"the spec names {name}, and the network has {', '.join(list(state)[:6])}, ..."
                )
            if not _is_list_of_names(permutations) or len(permutations) != state[name].ndim:
                raise CurvwatchError(
                    f"the spec of {name} is {permutations!r}, and its shape is "
                    f"{tuple(state[name].shape)}: the name of a permutation, or None, is needed for "
                    "each axis"
                )
            for axis, permutation in enumerate(permutations):
                if permutation is not None:
                    axes[permutation].append((name, axis))
        sizes = {p: min(state[n].shape[axis] for n, axis in places) for p, places in axes.items()}
        for p, places in axes.items():
            for name, axis in places:
                length = state[name].shape[axis]
                if sizes[p] == 0 or length % sizes[p]:
                    raise CurvwatchError(
                        f"axis {axis} of {name} has {length} entries, which cannot be shared among the "
                        f"{sizes[p]} units of the permutation {p!r}"
                    )
        return cls({p: tuple(places) for p, places in axes.items()}, sizes)


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(p is None or isinstance(p, str) for p in value)


def match_units(
    places: Places, a: Mapping[str, Tensor], b: Mapping[str, Tensor], *, seed: int
) -> tuple[dict[str, np.ndarray], int]:
    """Permutations of `b` for which the inner product with `a` is large (Ainsworth et al. 2023).

    Their algorithm 1: one permutation after the other, in random order, is set to the best one for the
    others as they are, a linear assignment problem, until none changes. That is a local maximum. Where
    two axes of a tensor follow one permutation, which they leave out, the problem is quadratic: it is
    solved with the other axis as it is, and what comes out is taken where it is better.

    Args:
        places: where permutations act.
        a: the tensors that count, float64, on the CPU.
        b: likewise.
        seed: of the order.

    Returns:
        Of each permutation, which unit of `b` comes to each place, shape (units,); and how many rounds
        it took.

    Raises:
        ImportError: scipy is missing.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ImportError(
            "align() solves its assignments with scipy: pip install 'curvwatch[landscape]'"
        ) from error

    generator = np.random.default_rng(seed)
    chosen = {p: np.arange(size) for p, size in places.sizes.items()}
    scale = math.sqrt(sum(float(a[n].square().sum()) for n in a))
    scale *= math.sqrt(sum(float(b[n].square().sum()) for n in b))
    names = list(chosen)
    rounds, changed = 0, True
    while changed:
        changed, rounds = False, rounds + 1
        for i in generator.permutation(len(names)):
            p = names[i]
            _, order = linear_sum_assignment(_overlap(places, p, a, b, chosen), maximize=True)
            new = {**chosen, p: order}
            gain = _agreement(places, p, a, b, new) - _agreement(places, p, a, b, chosen)
            if gain > _GAIN * scale:
                chosen, changed = new, True
    return chosen, rounds


def _overlap(
    places: Places,
    p: str,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    chosen: Mapping[str, np.ndarray],
) -> np.ndarray:
    """Inner products of what each unit of `a` has with what each of `b` has, shape (units, units).

    Other axes of `b` are permuted as chosen, those that follow `p`, too.
    """
    size = places.sizes[p]
    total = torch.zeros(size, size, dtype=torch.float64)
    for name, axis in places.axes[p]:
        if name in a:
            other = _permute_tensor(places, name, b[name], chosen, but=axis)
            total += _by_unit(a[name], axis, size) @ _by_unit(other, axis, size).T
    return total.numpy()


def _agreement(
    places: Places,
    p: str,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    chosen: Mapping[str, np.ndarray],
) -> float:
    """The inner product of all tensors that follow `p`."""
    names = {name for name, _ in places.axes[p] if name in a}
    return sum(float((a[n] * _permute_tensor(places, n, b[n], chosen)).sum()) for n in names)


def _by_unit(t: Tensor, axis: int, size: int) -> Tensor:
    return t.movedim(axis, 0).reshape(size, -1)


def _permute_tensor(
    places: Places,
    name: str,
    t: Tensor,
    chosen: Mapping[str, np.ndarray],
    *,
    but: int | None = None,
) -> Tensor:
    """The tensor `name` with its units in the places that `chosen` says, on all axes `but` one."""
    for axis, p in places.followed[name]:
        if axis == but:
            continue
        order = chosen[p]
        block = t.shape[axis] // len(order)
        index = (order[:, None] * block + np.arange(block)).reshape(-1)
        t = t.index_select(axis, torch.from_numpy(index).to(t.device))
    return t


def permute(
    places: Places, state: Mapping[str, Tensor], chosen: Mapping[str, np.ndarray]
) -> dict[str, Tensor]:
    """`state` with its units in the places that `chosen` says; tensors that stay are the same ones."""
    return {
        name: _permute_tensor(places, name, t, chosen) if name in places.followed else t
        for name, t in state.items()
    }


def moved_units(order: np.ndarray) -> int:
    """How many units of a permutation have another place."""
    return int((order != np.arange(len(order))).sum())
