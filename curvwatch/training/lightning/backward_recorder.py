"""Records the losses that `training_step` passes to backward() for one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from curvwatch.errors import CurvwatchError
from curvwatch.training.lightning.isolated_optimizers import IsolatedOptimizers

if TYPE_CHECKING:
    import lightning.pytorch as pl


class StepReached(BaseException):
    """Ends `training_step` where the optimizer makes its step; no `except Exception` stops it."""


class BackwardRecorder:
    """Records the losses passed to backward() in one run of `training_step`, for one optimizer.

    Args:
        optimizer: whose loss is to be inferred.
        optimizers: isolated while this records.
        until_step: leave `training_step` by a `StepReached` at the optimizer's first step.
        backward: also make the backward passes, for a step that reads gradients.
        stepped: called with each optimizer that makes its first step.

    Attributes:
        losses: passed to backward() since the optimizer's gradients were last cleared, until its step.
        reached: whether the optimizer made a step.
        cleared: whether its gradients were cleared before that.
        any: whether any loss was passed to backward(), for any optimizer.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        optimizers: IsolatedOptimizers,
        *,
        until_step: bool,
        backward: bool,
        stepped: Callable[[Optimizer], None],
    ) -> None:
        self.losses: list[Tensor] = []
        self.reached = False
        self.cleared = False
        self.any = False
        self._optimizer = optimizer
        self._until_step = until_step
        self._backward = backward
        self._stepped = stepped
        self._seen: set[int] = set()
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        placed = [optimizers.places.now(p) for p in weights if p.requires_grad]
        # a weight that is no parameter of the module cannot be looked for in a graph
        self._searchable = all(p is not None for p in placed)
        self._leaves = {id(p): p for p in placed if p is not None}

    @property
    def loss(self) -> Tensor | None:
        """The sum of `losses`; None: there are none."""
        return sum(self.losses[1:], self.losses[0]) if self.losses else None

    def step(self, optimizer: Optimizer, closure: Callable[[], Any] | None, _: bool) -> Any:
        """In place of `optimizer.step(closure)`."""
        output = None
        if closure is not None:
            with torch.enable_grad():
                output = closure()
        if optimizer is self._optimizer:
            self.reached = True
            if self._until_step:
                raise StepReached
        if id(optimizer) not in self._seen:
            self._seen.add(id(optimizer))
            self._stepped(optimizer)
        return output

    def clear(self, weights: Sequence[Tensor]) -> None:
        """In place of clearing the gradients of `weights`."""
        cleared = {id(w) for w in weights}
        for weight in weights:
            weight.grad = None
        if self.reached or not self._leaves.keys() & cleared:
            return
        if self.losses and not self._leaves.keys() <= cleared:
            raise CurvwatchError(
                "training_step clears the gradients of a part of the optimizer's weights between "
                f"backward and step, so its loss cannot be inferred: {GIVE_ONE}"
            )
        self.losses = []
        self.cleared = True

    def sent(self, tensors: Any, weights: Any, inputs: Any) -> None:
        """`torch.autograd.backward(tensors, weights, inputs=inputs)` was called."""
        self.any = True
        if self.reached:
            return
        if inputs is not None:
            chosen = inputs.values() if isinstance(inputs, dict) else _listed(inputs)
            shared = self._leaves.keys() & {id(t) for t in chosen}
            if not shared:
                return
            if len(shared) < len(self._leaves):
                raise CurvwatchError(
                    "a backward pass is for a part of the optimizer's weights only (inputs=...), so "
                    f"its loss cannot be inferred: {GIVE_ONE}"
                )
        losses = _listed(tensors)
        for loss, weight in zip(losses, _listed(weights) or [None] * len(losses), strict=True):
            if loss.requires_grad and (not self._searchable or _reaches(loss, self._leaves)):
                self.losses.append(_scalar(loss, weight))

    @contextmanager
    def recording(self, trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
        """Put this in the place of everything that makes a backward pass, or clears gradients."""
        original, strategy = torch.autograd.backward, trainer.strategy

        def backward(
            tensors: Any,
            grad_tensors: Any = None,
            retain_graph: bool | None = None,
            create_graph: bool = False,
            grad_variables: Any = None,
            inputs: Any = None,
        ) -> None:
            weights = grad_tensors if grad_tensors is not None else grad_variables
            self.sent(tensors, weights, inputs)
            if self._backward and all(t.requires_grad for t in _listed(tensors)):
                original(tensors, weights, True, create_graph, inputs=inputs)

        def manual_backward(loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
            # neither the scaling of mixed precision nor the callbacks' hooks
            module.backward(loss, *args, **kwargs)
            return loss

        def zero_grad(part: nn.Module, set_to_none: bool = True) -> None:
            self.clear(list(part.parameters()))

        with ExitStack() as stack:
            # Tensor.backward calls it, too
            stack.enter_context(_replaced(torch.autograd, backward=backward))
            stack.enter_context(_replaced(strategy, backward=manual_backward))
            stack.enter_context(_replaced(nn.Module, zero_grad=zero_grad))
            stack.enter_context(_replaced(torch.amp.GradScaler, **_NO_SCALING))
            yield


GIVE_ONE = (
    "give CurvatureMonitor(loss_fn=lambda module, batch: ...), or a list with one for each optimizer"
)
# a GradScaler of the user's own
_NO_SCALING: dict[str, Any] = {
    "scale": lambda self, outputs: outputs,
    "unscale_": lambda self, optimizer: None,
    "step": lambda self, optimizer, *args, **kwargs: optimizer.step(*args, **kwargs),
    "update": lambda self, new_scale=None: None,
}


@contextmanager
def _replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Set attributes of `owner` itself, and put back what was there, or nothing."""
    original = {name: vars(owner)[name] for name in values if name in vars(owner)}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name in values:
            if name in original:
                setattr(owner, name, original[name])
            else:
                delattr(owner, name)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, Tensor) else list(value)


def _reaches(loss: Tensor, leaves: Container[int]) -> bool:
    """Whether the graph of `loss` ends in a tensor whose `id` is one of `leaves`."""
    if id(loss) in leaves:
        return True
    stack, seen = [loss.grad_fn], set()
    while stack:
        node: Any = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if id(getattr(node, "variable", None)) in leaves:
            return True
        stack.extend(parent for parent, _ in node.next_functions)
    return False


def _scalar(loss: Tensor, weight: Tensor | None) -> Tensor:
    if weight is not None:
        return (loss * weight).sum()
    if loss.numel() != 1:
        raise CurvwatchError(
            f"a loss passed to backward() has the shape {tuple(loss.shape)}; a scalar is needed, such "
            f"as its mean(); or {GIVE_ONE}"
        )
    return loss.reshape(())
