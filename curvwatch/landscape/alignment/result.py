"""An aligned network as it comes back: its tensors, what was permuted, a file, a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from curvwatch.landscape import archive
from curvwatch.landscape.alignment.figure import plot_aligned
from curvwatch.landscape.alignment.matching import moved_units
from curvwatch.landscape.checkpoints import Checkpoint, weights_of
from curvwatch.landscape.surface import Surface

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STATE, _ORDER = "tensor {}", "permutation {}"


@dataclass(frozen=True, eq=False)
class Aligned(archive.Archived):
    """A network whose hidden units were permuted.

    Attributes:
        state: its tensors by name, of the dtypes and on the devices that they had; `weights_of` takes
            it, and `path` and `interpolate` take the result as it is.
        permutations: of each permutation, which unit came to each place, shape (units,).
        distances_before: |b - a| of each tensor that the spec names, buffers left out.
        distances: the same afterwards.
        rounds: over all permutations until none changed; the last one changed nothing.
        error: the largest difference of an output, relative to the largest output, in float64.
    """

    _WHAT = "alignment"

    state: Mapping[str, Tensor]
    permutations: Mapping[str, np.ndarray]
    distances_before: Mapping[str, float]
    distances: Mapping[str, float]
    rounds: int
    error: float

    @property
    def distance_before(self) -> float:
        """|b - a| of all tensors in `distances_before`."""
        return math.hypot(*self.distances_before.values())

    @property
    def distance(self) -> float:
        """The same afterwards."""
        return math.hypot(*self.distances.values())

    @property
    def moved(self) -> float:
        """The share of hidden units that have another place than before."""
        units = sum(len(order) for order in self.permutations.values())
        return sum(map(moved_units, self.permutations.values())) / units

    def plot(self) -> Figure:
        """How far each layer was from its twin before and is now, and the share of units that moved.

        Raises:
            ImportError: matplotlib is missing; `pip install 'curvwatch[report]'` has it.
        """
        return plot_aligned(self)

    def _pack(self) -> archive.Content:
        _, values = super()._pack()
        tensors = list(self.state.values())
        arrays = {_STATE.format(i): _as_array(t) for i, t in enumerate(tensors)}
        arrays |= {_ORDER.format(i): order for i, order in enumerate(self.permutations.values())}
        # names of tensors and permutations may be any text: not those of a file's members
        values |= {"state": list(self.state), "permutations": list(self.permutations)}
        values |= {
            "dtypes": [str(t.dtype).removeprefix("torch.") for t in tensors],
            "shapes": [list(t.shape) for t in tensors],
        }
        return arrays, values

    @classmethod
    def _unpack(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> Any:
        kept = zip(values["state"], values["dtypes"], values["shapes"], strict=True)
        state = {
            name: _as_tensor(arrays[_STATE.format(i)], dtype, shape)
            for i, (name, dtype, shape) in enumerate(kept)
        }
        orders = {n: arrays[_ORDER.format(i)] for i, n in enumerate(values["permutations"])}
        return super()._unpack({}, {**values, "state": state, "permutations": orders})


def end_weights(surface: Surface, end: Checkpoint | Aligned) -> Tensor:
    """The weights of a checkpoint, or of an aligned network, as a vector of `surface`."""
    return weights_of(end.state if isinstance(end, Aligned) else end, surface)


def _as_array(t: Tensor) -> np.ndarray:
    """The same numbers, or the bytes, shape (bytes,), of dtypes that NumPy lacks, such as bfloat16."""
    whole = t.detach().cpu().resolve_conj().resolve_neg().contiguous()
    try:
        return np.asarray(whole.numpy())
    except TypeError:
        return np.asarray(whole.reshape(-1).view(torch.uint8).numpy())


def _as_tensor(array: np.ndarray, dtype: str, shape: list[int]) -> Tensor:
    t = torch.empty(shape, dtype=getattr(torch, dtype))
    # byte by byte, whichever of the two it is
    there = torch.from_numpy(array.reshape(-1).view(np.uint8))
    here = t.reshape(-1).view(torch.uint8)
    if here.shape != there.shape:
        raise ValueError(f"{len(there)} bytes are no {dtype} of shape {tuple(shape)}")
    here.copy_(there)
    return t
