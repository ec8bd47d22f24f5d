"""Random states: taken, set, and put back."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

Generator = torch.Generator | random.Random | np.random.Generator | np.random.RandomState


@dataclass(frozen=True)
class RandomState:
    """The state of every generator that a training step may draw from.

    `own` holds the states of generators found on the module, in the order in which they were found.
    Everything is a tensor or plain Python, so a checkpoint can hold it.
    """

    torch_cpu: Tensor
    torch_cuda: dict[int, Tensor]
    python: tuple[Any, ...]
    numpy: tuple[Any, ...]
    own: list[Any] = field(default_factory=list)

    @classmethod
    def take(cls, devices: Iterable[torch.device], own: Sequence[Generator] = ()) -> RandomState:
        """The present state of torch (CPU and the CUDA `devices`), Python, NumPy and `own`."""
        cuda = sorted({_index(d) for d in devices if d.type == "cuda"})
        name, keys, *rest = cast(tuple[Any, ...], np.random.get_state(legacy=True))
        return cls(
            torch_cpu=torch.get_rng_state(),
            torch_cuda={i: torch.cuda.get_rng_state(i) for i in cuda},
            python=random.getstate(),
            numpy=(name, keys.tolist(), *rest),
            own=[_state_of(g) for g in own],
        )

    def set(self, own: Sequence[Generator] = ()) -> None:
        """Make this the present state."""
        torch.set_rng_state(self.torch_cpu)
        for i, state in self.torch_cuda.items():
            torch.cuda.set_rng_state(state, i)
        random.setstate(_as_tuple(self.python))
        name, keys, *rest = self.numpy
        np.random.set_state((name, np.asarray(keys, dtype=np.uint32), *rest))
        for generator, state in zip(own, self.own, strict=False):
            _set_state(generator, state)

    def to_plain(self) -> dict[str, Any]:
        """As a dict for a checkpoint."""
        return {
            "torch_cpu": self.torch_cpu,
            "torch_cuda": dict(self.torch_cuda),
            "python": self.python,
            "numpy": self.numpy,
            "own": list(self.own),
        }


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _state_of(generator: Generator) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        name, keys, *rest = cast(tuple[Any, ...], generator.get_state(legacy=True))
        return (name, keys.tolist(), *rest)
    return _plain(generator.bit_generator.state)


def _set_state(generator: Generator, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(_as_tuple(state))
    elif isinstance(generator, np.random.RandomState):
        name, keys, *rest = state
        generator.set_state((name, np.asarray(keys, dtype=np.uint32), *rest))
    else:
        generator.bit_generator.state = state


def _plain(value: Any) -> Any:
    """Bit-generator states hold arrays (MT19937, Philox); lists serve as well."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


def _as_tuple(state: Sequence[Any]) -> tuple[Any, ...]:
    """As `random.setstate` takes it; a checkpoint may have made lists of its tuples."""
    version, words, spare = state
    return version, tuple(words), spare
