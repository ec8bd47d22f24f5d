"""Running statistics of batch norm at weights that were never trained: estimated there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from curvwatch.errors import CurvwatchError
from curvwatch.objective.isolation.containers import batch_size

# of torch's error in batch norm
_TOO_FEW = "Expected more than 1 value per channel"


def normalisations(module: nn.Module) -> list[Any]:
    """The modules in `module` that keep running statistics of their inputs."""
    return [m for m in module.modules() if isinstance(m, _NormBase) and m.running_mean is not None]


class Recalibrated:
    """A loss whose batch norms have the statistics of the weights that it is evaluated at.

    A pass over all batches in train mode, with `estimating` set, collects mean and variance; passes
    without it use them: as `torch.optim.swa_utils.update_bn` (Izmailov et al. 2018), but
    each batch counts by its size, and one of a single example, which has no variance, does not.

    Args:
        module: isolated while this is called, so what is done to it here leaves no trace.
        loss_fn: from a batch to a loss; it uses `module`.
    """

    def __init__(self, module: nn.Module, loss_fn: Callable[[Any], Any]) -> None:
        self.loss_fn = loss_fn
        self._module = module
        self._norms = normalisations(module)
        self._estimating = False
        self._sums: dict[int, list[Tensor]] = {}
        self._examples: dict[int, int] = {}
        self._skipped = 0

    def estimate(self, evaluate: Callable[[], Any]) -> None:
        """Let `evaluate` call the loss on each batch once, and keep the statistics that it meets."""
        self._sums, self._examples = {}, {}
        self._estimating, self._skipped = True, 0
        try:
            evaluate()
        finally:
            self._estimating = False
        if self._skipped and not self._sums:
            raise CurvwatchError(
                "each batch has a single example, of which no batch-norm statistics can be "
                "estimated: give larger batches, or recalibrate=False"
            )

    def __call__(self, batch: Any) -> Any:
        """The loss of `batch`."""
        if self._estimating:
            return self._update_statistics(batch)
        for i, sums in self._sums.items():
            norm, examples = self._norms[i], self._examples[i]
            norm.running_mean, norm.running_var = (s / examples for s in sums)
        return self.loss_fn(batch)

    def _update_statistics(self, batch: Any) -> Any:
        self._module.train()
        # a module may keep some of them in eval mode, with the statistics that they have
        watched = {i: norm for i, norm in enumerate(self._norms) if norm.training}
        for norm in watched.values():
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean, where it is called several times
        try:
            loss = self.loss_fn(batch)
        except ValueError as error:
            if _TOO_FEW not in str(error):
                raise
            # one example has no variance: others make the statistics
            self._skipped += 1
            self._module.eval()
            return self.loss_fn(batch)
        examples = batch_size(batch)
        for i, norm in watched.items():
            if not int(norm.num_batches_tracked):  # not called
                continue
            statistics = [norm.running_mean, norm.running_var]
            if i in self._sums:
                self._add(self._sums[i], statistics, examples)
                self._examples[i] += examples
            else:
                self._sums[i] = [s.detach() * examples for s in statistics]
                self._examples[i] = examples
        return loss

    @staticmethod
    @torch.no_grad()
    def _add(sums: Sequence[Tensor], statistics: Sequence[Tensor], examples: int) -> None:
        for total, value in zip(sums, statistics, strict=True):
            total += value * examples
