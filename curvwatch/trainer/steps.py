"""The real optimizer steps: weights before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


@dataclass(frozen=True)
class FinishedStep:
    """One step that an optimizer took.

    Attributes:
        optimizer: its index in `trainer.optimizers`.
        before: from `id(parameter)` to its value before the step, all optimizers' parameters.
        after: the same for the parameters of this optimizer, after the step.
    """

    optimizer: int
    before: dict[int, Tensor]
    after: dict[int, Tensor]


class StepWatch:
    """Keeps the weights before and after the next step of each optimizer, while armed.

    torch's own hooks on `optimizer.step` see each step as it is taken: after accumulation, once for
    LBFGS, under manual optimization, and not when a GradScaler skips it.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = list(optimizers)
        self._armed = False
        self._before: dict[int, dict[int, Tensor]] = {}
        self.finished: dict[int, FinishedStep] = {}
        self._handles = []
        for index, optimizer in enumerate(self.optimizers):
            self._handles += [
                optimizer.register_step_pre_hook(self._pre_hook(index)),
                optimizer.register_step_post_hook(self._post_hook(index)),
            ]

    def arm(self) -> None:
        """Keep the first step of each optimizer from now on."""
        self.disarm()
        self._armed = True

    def disarm(self) -> dict[int, FinishedStep]:
        """Stop, forget, and give what was finished by optimizer index."""
        finished, self.finished = self.finished, {}
        self._before = {}
        self._armed = False
        return finished

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.disarm()

    def _pre_hook(self, index: int) -> Any:
        def keep_weights(*_: Any) -> None:
            if self._armed and index not in self.finished:
                self._before[index] = _copies(self.optimizers)

        return keep_weights

    def _post_hook(self, index: int) -> Any:
        def keep_update(*_: Any) -> None:
            before = self._before.pop(index, None)
            if before is not None:
                after = _copies([self.optimizers[index]])
                self.finished[index] = FinishedStep(index, before, after)

        return keep_update


def trained(optimizer: Optimizer) -> list[Tensor]:
    """The parameters of `optimizer` with requires_grad, each once, in the order of its groups."""
    unique = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    return [p for p in unique.values() if p.requires_grad]


def _copies(optimizers: Sequence[Optimizer]) -> dict[int, Tensor]:
    weights = {id(p): p for o in optimizers for g in o.param_groups for p in g["params"]}
    with torch.no_grad():
        return {key: p.detach().clone() for key, p in weights.items()}
