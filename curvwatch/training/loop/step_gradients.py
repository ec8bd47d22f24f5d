"""The gradients that make a step, as its optimizer sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import LBFGS, Optimizer
from torch.utils.hooks import RemovableHandle

from curvwatch.errors import ErrorPolicy
from curvwatch.objective.processes import local
from curvwatch.training.optimizer_groups import trained


class StepGradients:
    """Keeps the gradient of the next step of each optimizer, while armed.

    Args:
        optimizers: to watch.
        errors: where failures go.

    Attributes:
        of_step: by optimizer index, from `id(parameter)` to its gradient.
        skipped: the optimizers whose step a GradScaler skipped inside the optimizer (fused ones).
    """

    def __init__(self, optimizers: Sequence[Optimizer], *, errors: ErrorPolicy) -> None:
        self.of_step: dict[int, dict[int, Tensor]] = {}
        self.skipped: set[int] = set()
        self._armed = False
        self._errors = errors
        self._handles: list[RemovableHandle] = []
        for index, optimizer in enumerate(optimizers):
            self._handles += [
                optimizer.register_step_pre_hook(self._before(index)),
                optimizer.register_step_post_hook(self._after(index)),
            ]

    def arm(self) -> None:
        """Keep the gradient of the first step of each optimizer from now on."""
        self.disarm()
        self._armed = True

    def disarm(self) -> None:
        """Stop and forget."""
        self.of_step, self.skipped = {}, set()
        self._armed = False

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.disarm()

    def _before(self, index: int) -> Any:
        def hook(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # a closure makes the gradient later; a fused optimizer takes the scale off itself
            has_closure = any(map(callable, (*args, *kwargs.values())))
            if not has_closure and getattr(optimizer, "grad_scale", None) is None:
                self._keep(index, optimizer)

        return hook

    def _after(self, index: int) -> Any:
        def hook(optimizer: Optimizer, *_: Any) -> None:
            if self._armed and float(getattr(optimizer, "found_inf", None) or 0.0):
                self.skipped.add(index)
            # not where it is there already: Nesterov's foreach step adds the momentum to it
            self._keep(index, optimizer)

        return hook

    def _keep(self, index: int, optimizer: Optimizer) -> None:
        if not self._armed or index in self.of_step or isinstance(optimizer, LBFGS):
            return
        with self._errors.guard("saving the gradient"):
            self.of_step[index] = {
                id(p): local(p.grad.detach()).clone() for p in trained(optimizer) if p.grad is not None
            }
