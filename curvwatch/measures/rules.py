"""Optimizers that torch does not have. Their learning rate is 1: lengths of steps are not compared."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class _Rule(Optimizer):
    """Takes a step by all gradients together."""

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        super().__init__(params, {"lr": 1.0})

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one."""
        with torch.no_grad():
            weights = [p for g in self.param_groups for p in g["params"] if p.grad is not None]
            if weights:
                self._move(weights, [cast(Tensor, p.grad) for p in weights])

    def _buffers(self, name: str, weights: list[Tensor]) -> list[Tensor]:
        for w in weights:
            if name not in self.state[w]:
                self.state[w][name] = torch.zeros_like(w)
        return [self.state[w][name] for w in weights]

    @abstractmethod
    def _move(self, weights: list[Tensor], gradients: list[Tensor]) -> None: ...


class Sign(_Rule):
    """w <- w - sign(g) (Bernstein et al. 2018)."""

    def _move(self, weights: list[Tensor], gradients: list[Tensor]) -> None:
        torch._foreach_sub_(weights, torch._foreach_sign(gradients))


class Lion(_Rule):
    """w <- w - sign(.9 m + .1 g), then m <- .99 m + .01 g (Chen et al. 2023, algorithm 2)."""

    def _move(self, weights: list[Tensor], gradients: list[Tensor]) -> None:
        averages = self._buffers("exp_avg", weights)
        torch._foreach_sub_(weights, torch._foreach_sign(torch._foreach_lerp(averages, gradients, 0.1)))
        torch._foreach_lerp_(averages, gradients, 0.01)


class NormalizedSGD(_Rule):
    """w <- w - m with m <- .9 m + g / abs(g), abs(g) of each weight tensor (Yu et al. 2017).

    One norm for all weights would leave the direction as it is but for the momentum: measured, the
    directional sharpness is then that of SGD with momentum.
    """

    def _move(self, weights: list[Tensor], gradients: list[Tensor]) -> None:
        buffers = self._buffers("momentum_buffer", weights)
        torch._foreach_mul_(buffers, 0.9)
        units = [g / torch.where(n > 0, n, 1.0) for g, n in _with_norms(gradients)]
        torch._foreach_add_(buffers, units)
        torch._foreach_sub_(weights, buffers)


def clipped(gradients: Mapping[int, Tensor], fraction: float) -> dict[int, Tensor]:
    """`gradients` with their largest entries cut down to one threshold.

    Args:
        gradients: by any keys.
        fraction: of the entries that are not zero, how many are larger than the threshold.
    """
    if not gradients:
        return {}
    first = next(iter(gradients.values()))
    sizes = torch.cat([g.reshape(-1).to(first).abs() for g in gradients.values()])
    sizes = sizes[sizes > 0]
    kept = len(sizes) - round(fraction * len(sizes))
    if not 0 < kept < len(sizes):
        return dict(gradients)
    # on an accelerator kthvalue is refused where algorithms have to be deterministic
    on_host = sizes.device.type == "cpu"
    threshold: Tensor = sizes.kthvalue(kept).values if on_host else sizes.sort().values[kept - 1]
    return {key: _cut(g, threshold.to(g)) for key, g in gradients.items()}


def _with_norms(gradients: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(gradients, torch._foreach_norm(gradients), strict=True)


def _cut(g: Tensor, threshold: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(g, -threshold), threshold)
