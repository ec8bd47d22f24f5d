"""One compared optimizer beside one of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim import optimizer as torch_optimizer

from curvwatch.errors import CurvwatchError
from curvwatch.measures.compared import Compared
from curvwatch.measures.rules import clipped


class WouldBe:
    """Makes the steps that `compared` would make, on parameters of its own.

    Those of a built-in rule are zero before each step, so that the step is what they become: it does
    not depend on the weights. Those of a factory are the weights, for weight decay acts on them.

    Args:
        compared: the optimizer.
        weights: that the run's optimizer trains.

    Raises:
        CurvwatchError: what the factory makes is of no use.
    """

    def __init__(self, compared: Compared, weights: Sequence[Tensor]) -> None:
        self._compared = compared
        self._own: dict[int, nn.Parameter] = {}
        self._counts = [len(weights)]
        with self._untraced():
            optimizer: Any = compared.make(self._take(weights))
        if not isinstance(optimizer, Optimizer) or isinstance(optimizer, LBFGS):
            raise CurvwatchError(
                f"{type(optimizer).__name__} is no torch.optim.Optimizer that makes a step from one "
                "gradient"
            )
        self._optimizer = optimizer

    def look(self, weights: Sequence[Tensor]) -> None:
        """Right before a step: take note of `weights`."""
        new = [w for w in weights if id(w) not in self._own]
        if new:
            self._counts.append(len(new))
            self._optimizer.add_param_group({"params": self._take(new)})
        if not self._compared.is_built_in:
            with torch.no_grad():
                for w in weights:
                    self._own[id(w)].copy_(w)

    def feed(self, gradients: Mapping[int, Tensor]) -> None:
        """Make the step of `gradients`, by `id(weight)`."""
        share = self._compared.clip
        if share is not None:
            gradients = clipped(gradients, share)
        with torch.no_grad():
            for key, own in self._own.items():
                g = gradients.get(key)
                # a copy: an optimizer may write into it
                own.grad = None if g is None else g.to(own.dtype, copy=True).view_as(own)
                if self._compared.is_built_in:
                    own.zero_()
        with self._untraced():
            self._optimizer.step()
        for own in self._own.values():
            own.grad = None

    @torch.no_grad()
    def steps(self, before: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """The last step, by `id(weight)`, from the weights `before`."""
        if self._compared.is_built_in:
            return {key: own.detach().clone() for key, own in self._own.items()}
        return {key: own.detach() - before[key] for key, own in self._own.items() if key in before}

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: tensors and plain Python, as far as the optimizer's is."""
        return {
            "counts": list(self._counts),
            "shapes": [list(own.shape) for own in self._own.values()],
            "optimizer": _on_host(self._optimizer.state_dict()),
        }

    @classmethod
    def resumed(
        cls, compared: Compared, weights: Sequence[Tensor], state: Mapping[str, Any]
    ) -> WouldBe:
        """Go on from `state_dict()`; from nothing where it is of other weights."""
        counts, known = state["counts"], [list(w.shape) for w in weights]
        if state["shapes"] != known[: sum(counts)]:
            return cls(compared, weights)
        would_be = cls(compared, weights[: counts[0]])
        for i in range(1, len(counts)):
            would_be.look(weights[: sum(counts[: i + 1])])
        would_be._optimizer.load_state_dict(state["optimizer"])
        return would_be

    def _take(self, weights: Sequence[Tensor]) -> list[nn.Parameter]:
        new = []
        for w in weights:
            # half precision would round small steps away
            dtype = torch.promote_types(w.dtype, torch.float32)
            start = w.detach().to(dtype, copy=True)
            own = nn.Parameter(torch.zeros_like(start) if self._compared.is_built_in else start)
            self._own[id(w)] = own
            new.append(own)
        return new

    @contextmanager
    def _untraced(self) -> Iterator[None]:
        """No hook on all optimizers hears of this one, and it draws none of training's numbers."""
        if self._compared.is_built_in:
            with _deaf():
                yield
            return
        devices = {own.device for own in self._own.values() if own.device.type == "cuda"}
        with _deaf(), torch.random.fork_rng(devices=sorted(d.index for d in devices)):
            yield


@contextmanager
def _deaf() -> Iterator[None]:
    """Without the hooks of `torch.optim.optimizer.register_optimizer_step_pre_hook` and its like."""
    of_all: list[Any] = [
        torch_optimizer._global_optimizer_pre_hooks,
        torch_optimizer._global_optimizer_post_hooks,
    ]
    kept = [list(hooks.items()) for hooks in of_all]
    try:
        for hooks in of_all:
            hooks.clear()
        yield
    finally:
        for hooks, items in zip(of_all, kept, strict=True):
            hooks.update(items)


def _on_host(value: Any) -> Any:
    """A copy of nested dicts and lists with tensors on the CPU, that the next step leaves alone."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {k: _on_host(v) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_on_host, value))
    return value
