"""The values of a row by another way: central differences of torch's own gradients, in float64.

Nothing of curvwatch is used here, no Trainer, and no second derivative of torch: the module is set to
what it was at a step, and its Hessian made of the gradients of `loss.backward()` at shifted weights.
Attention uses its fused kernel, checkpoints and the rest are what they are in training.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# the error is of order h^2 and 1e-16 / h
_H = 1e-5


@contextmanager
def in_float64() -> Iterator[None]:
    """As the Trainer's precision="64-true"."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@dataclass(frozen=True)
class Use:
    """A batch, and the state of torch's generator that it is used with."""

    batch: Any
    random: Tensor


class Twin:
    """Loss and derivatives of `module.loss`, as a function of the weights that are trained.

    Args:
        module: in float64; each evaluation starts from its present `state_dict`.
        names: of the weights.
    """

    def __init__(self, module: Any, names: Sequence[str]) -> None:
        self.module = module
        self._state = copy.deepcopy(module.state_dict())
        named = dict(module.named_parameters())
        self._weights = {name: named[name] for name in names}
        self._sizes = [w.numel() for w in self._weights.values()]
        self._here = torch.cat([w.detach().clone().reshape(-1) for w in self._weights.values()])

    def keep(self) -> Twin:
        """From here on start from what the last evaluation left, but for the weights."""
        return Twin(self.module, list(self._weights))

    def loss(self, uses: Sequence[Use], shift: Tensor | float = 0.0) -> float:
        """The mean over `uses`, each with buffers as they were."""
        return self._evaluated(uses, shift)[0]

    def gradient(self, uses: Sequence[Use], shift: Tensor | float = 0.0) -> Tensor:
        return self._evaluated(uses, shift)[1]

    def along(self, uses: Sequence[Use], v: Tensor) -> Tensor:
        """Hv of a unit vector."""
        return (self.gradient(uses, _H * v) - self.gradient(uses, -_H * v)) / (2 * _H)

    def sharpness(self, uses: Sequence[Use], masked: Mapping[str, int]) -> float:
        """The largest eigenvalue; rows of weights that are `masked` are left out."""
        H = torch.stack([self.along(uses, v) for v in torch.eye(len(self._here))])
        kept = self._kept(masked)
        H = H[kept][:, kept]
        asymmetry = float((H - H.T).norm() / H.norm())
        assert asymmetry < 1e-6, f"the gradient is that of no function: {asymmetry:.1e}"
        return float(torch.linalg.eigvalsh((H + H.T) / 2)[-1])

    def _kept(self, masked: Mapping[str, int]) -> Tensor:
        parts = []
        for name, weight in self._weights.items():
            kept = torch.ones_like(weight, dtype=torch.bool)
            if name in masked:
                kept[masked[name]] = False
            parts.append(kept.reshape(-1))
        return torch.cat(parts)

    def _evaluated(self, uses: Sequence[Use], shift: Tensor | float) -> tuple[float, Tensor]:
        total, gradient = 0.0, torch.zeros_like(self._here)
        for use in uses:
            self.module.load_state_dict(self._state)
            self.module.zero_grad()
            with torch.no_grad():
                parts = (self._here + shift).split(self._sizes)
                for weight, part in zip(self._weights.values(), parts, strict=True):
                    weight.copy_(part.view_as(weight))
            torch.set_rng_state(use.random)
            loss = self.module.loss(copy.deepcopy(use.batch)) / len(uses)
            loss.backward()
            total += float(loss.detach())
            grads = [torch.zeros_like(w) if w.grad is None else w.grad for w in self._weights.values()]
            gradient += torch.cat([g.to_dense().reshape(-1) for g in grads])
        self.module.load_state_dict(self._state)
        return total, gradient


def values_of_step(
    twin: Twin,
    d: Tensor,
    *,
    probe: Sequence[Use],
    own: Sequence[Use],
    masked: Mapping[str, int],
    hold: Callable[[Any], None] | None,
) -> dict[str, float]:
    """What the monitor should log of a step d that was made with the batches `own`.

    `masked` names a row of a weight whose gradient is zero by definition, and `hold` keeps still what
    the module computes without a gradient.
    """
    length = float(d.norm())
    change = twin.loss(own, d) - twin.loss(own)
    if hold is not None:
        hold(twin.module)
        twin = twin.keep()
    slope = float(twin.gradient(own) @ d)
    curvature = float(twin.along(own, d / length) @ d) / length
    return {
        "curvature/loss": twin.loss(probe),
        "curvature/sharpness": twin.sharpness(probe, masked),
        "step/gradient_correlation": slope / length,
        "step/directional_sharpness": curvature,
        "step/loss_change": change,
        "step/stability_ratio": curvature * length**2 / (-2 * slope),
        "step/update_norm": length,
    }
