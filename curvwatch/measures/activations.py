"""How many of the entries after ReLU-like layers are not zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode

from curvwatch.measures.base import Landscape, LandscapeMeasure, Reading
from curvwatch.objective import OpenObjective

# modules and functions that make exact zeros
_MODULES = (
    nn.ReLU,
    nn.ReLU6,
    nn.Threshold,
    nn.Hardtanh,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Softshrink,
    nn.Hardshrink,
)
_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    F.relu,
    F.relu_,
    torch.relu,
    torch.relu_,
    Tensor.relu,
    Tensor.relu_,
    F.relu6,
    F.threshold,
    torch.threshold,
    torch.threshold_,
    F.hardtanh,
    F.hardtanh_,
    F.hardswish,
    F.hardsigmoid,
    F.softshrink,
    F.hardshrink,
)
# the name of the module that is trained
_WHOLE = "model"


class ActivationSparsity(LandscapeMeasure):
    """The share of entries that are not zero after each ReLU-like layer, on the probe.

    | metric | value |
    |---|---|
    | `curvature/nonzero_share` | share of non-zero entries after all ReLU-like layers together |
    | `curvature/nonzero_share_stderr` | its standard error from its spread over the batches of the \
probe; where the probe has several |
    | `curvature/layer/<name>/nonzero_share` | after one of them; 1 - this is its sparsity |

    Seen are torch's modules and functions that make exact zeros (ReLU, ReLU6, Threshold, Hardtanh,
    Hardswish, Hardsigmoid, Softshrink, Hardshrink), each under the name of the module in whose forward
    pass it is called: `mlp.act`, or `mlp` where that calls `torch.relu` itself. A layer that is called
    several times counts as one.

    Modules of these types are known from the start, and so is a module that keeps such a function, as
    nn.TransformerEncoderLayer does. Where a forward pass calls the function by itself, the layer is
    found in the first reading, and its metric starts there.

    Price: one forward pass.

    Source: Li et al. 2023, "The lazy neuron phenomenon: on emergence of activation sparsity in
    transformers" (percentage of non-zero entries).
    """

    name: str = "activation_sparsity"
    metrics: tuple[str, ...] = ("curvature/nonzero_share",)
    sampling_metrics: ClassVar[tuple[str, ...]] = ("curvature/nonzero_share_stderr",)

    def metrics_of(self, module: nn.Module, params: Sequence[Tensor]) -> tuple[str, ...]:
        """The whole, and each layer that is known before a forward pass."""
        return self.metrics + tuple(map(_metric, _relu_like_names(module)))

    def read(self, at: Landscape) -> Reading:
        """Read the shares; nan with a note where no ReLU-like layer was called."""
        objective = at.objective
        module = objective.module
        several = objective.batches > 1
        names = _relu_like_names(module)
        values = dict.fromkeys(self.metrics + (self.sampling_metrics if several else ()), math.nan)
        per_batch, found = _count_nonzero(objective, names)  # (batches, layers, 2) float64
        # the metrics of a run stay what they are from the first reading on
        names += at.memory.setdefault("found", found)
        totals = objective.processes.mean(per_batch.sum(dim=0)) * objective.processes.with_own_batches
        nonzero, entries = totals.sum(dim=0).tolist()
        for name, (part, size) in zip(
            [*_relu_like_names(module), *found], totals.tolist(), strict=True
        ):
            if name in names:
                values[_metric(name)] = part / size if size else math.nan
        values.update({_metric(name): math.nan for name in names if _metric(name) not in values})
        if not entries:
            note = "no ReLU-like layer was called; GELU, SiLU and their like make no exact zeros"
            return Reading(values, (note,))
        share = values["curvature/nonzero_share"] = nonzero / entries
        if several:
            each = per_batch.sum(dim=1)
            if objective.layout.sharded:  # a batch is spread over processes
                each = objective.processes.mean(each)
            off = each[:, 0] - share * each[:, 1]
            squares = (
                float(objective.processes.mean(off.square().sum()))
                * objective.processes.with_own_batches
            )
            count = objective.batches
            values["curvature/nonzero_share_stderr"] = (
                math.sqrt(squares * count / (count - 1)) / entries
            )
        return Reading(values)


def _metric(layer: str) -> str:
    return f"curvature/layer/{layer}/nonzero_share"


def _relu_like_names(module: nn.Module) -> list[str]:
    """The names of the modules that are ReLU-like, or keep such a function to call it."""
    return [
        name or _WHOLE
        for name, m in module.named_modules()
        if isinstance(m, _MODULES) or any(f is known for f in vars(m).values() for known in _FUNCTIONS)
    ]


def _count_nonzero(objective: OpenObjective, names: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Non-zero entries and all, of each batch and layer: `names`, and others that are found."""
    counter = _Counter({id(m): n or _WHOLE for n, m in objective.module.named_modules()})
    found: list[str] = []

    def count_batches() -> Tensor:
        batches: list[Mapping[str, Tensor]] = []
        with counter.count_inside():
            batches.extend(counter.take_counts() for _ in objective.evaluation.losses(None))
        found.extend(dict.fromkeys(name for b in batches for name in b if name not in names))
        none = torch.zeros(2, dtype=torch.float64, device=objective.layout.device)
        rows = [[b.get(name, none).to(none.device) for name in (*names, *found)] for b in batches]
        return torch.stack([torch.stack([none, *row])[1:] for row in rows])

    objective.counts.forwards += 1
    return objective.processes.run_together(count_batches), found


class _Counter(TorchFunctionMode):
    """Counts what ReLU-like functions make, by the module in whose forward pass they are called."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self._names = names
        self._inside = [_WHOLE]
        self._counts: dict[str, Tensor] = {}

    @contextmanager
    def count_inside(self) -> Iterator[None]:
        """Count from here on; torch's global hooks, for those of an isolated module are put back."""

        def enter(module: nn.Module, _: Any) -> None:
            self._inside.append(self._names.get(id(module), self._inside[-1]))

        def leave(*_: Any) -> None:
            self._inside.pop()

        handles = [
            register_module_forward_pre_hook(enter),
            register_module_forward_hook(leave, always_call=True),
        ]
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def take_counts(self) -> dict[str, Tensor]:
        """What was counted since the last call."""
        counts, self._counts = self._counts, {}
        return counts

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _FUNCTIONS and isinstance(result, Tensor):
            with torch.no_grad():
                seen = torch.count_nonzero(result).double()
            count = torch.stack([seen, torch.full_like(seen, result.numel())])
            name = self._inside[-1]
            self._counts[name] = self._counts[name] + count if name in self._counts else count
        return result
