"""What layers return, and what the loss is computed from, seen while the loss is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from curvwatch.objective.isolation.containers import tensors_in
from curvwatch.objective.layers import CalledLayer
from curvwatch.objective.outputs.loss_calls import LossCallRecorder, find_loss_inputs


class ForwardRecorder:
    """Watches forward passes by torch's global hook, for those of an isolated module are put back.

    Args:
        module: whose forward pass it is.
        layers: to watch, by name.
        see: called with the name of a layer and each tensor that it returns.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: Mapping[str, CalledLayer],
        see: Callable[[str, Tensor], None],
    ) -> None:
        self._see = see
        self._names: dict[int, list[str]] = {}
        for name, layer in layers.items():
            self._names.setdefault(id(layer.module), []).append(name)
        # whatever holds a layer is part of the network, and its loss function is not
        self._network = {
            id(m) for m in module.modules() if any(id(part) in self._names for part in m.modules())
        }
        self._losses = LossCallRecorder()
        self._results: list[Tensor] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """One evaluation of the loss."""
        self.clear()

        def leave(module: nn.Module, _: Any, result: Any) -> None:
            if id(module) not in self._network:
                return
            for t in tensors_in(result):
                if not (t.requires_grad and t.is_floating_point()):  # no function of a weight
                    continue
                for name in self._names.get(id(module), ()):
                    self._see(name, t)
                self._results.append(t)

        handle = register_module_forward_hook(leave)
        try:
            with self._losses:
                yield
        finally:
            handle.remove()

    def outputs(self, loss: Tensor) -> tuple[Tensor, ...]:
        """What a known loss function got; else those results of the network that `loss` is made of."""
        return find_loss_inputs(loss, self._losses.calls, self._results)

    def clear(self) -> None:
        """Forget what was seen, and its graph."""
        self._losses.clear()
        self._results.clear()
