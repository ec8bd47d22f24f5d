"""Learning rates that an alert changes, together with what schedulers compute them from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

# of a group: what schedulers (OneCycleLR, CyclicLR) keep there
_KEYS = ("lr", "initial_lr", "max_lr", "min_lr", "base_lr")
# of a scheduler
_RATES = ("base_lrs", "max_lrs", "_last_lr")
_FLOOR = "eta_min"  # of cosines


class LearningRates:
    """The learning rates of a run.

    Args:
        optimizers: whose groups are scaled.
        schedulers: torch's, that drive them; those inside SequentialLR and ChainedScheduler are found.

    Attributes:
        factor: what all rates were multiplied by so far, a warmup that goes on included.
    """

    def __init__(self, optimizers: Sequence[Optimizer], schedulers: Sequence[Any] = ()) -> None:
        self._optimizers = list(optimizers)
        self._schedulers = list(_with_inner(schedulers))
        self.factor = 1.0
        # of a warmup: the steps that are left, all of them, and what it began with
        self._left, self._steps, self._start = 0, 0, 1.0

    def scale(self, factor: float) -> str:
        """Multiply all rates; the first group's before and after, in words."""
        before = self._first
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                for key in _KEYS:
                    if key in group:
                        _multiply(group, key, factor)
        for scheduler in self._schedulers:
            if isinstance(getattr(scheduler, _FLOOR, None), float):
                setattr(scheduler, _FLOOR, getattr(scheduler, _FLOOR) * factor)
            for name in _RATES:
                rates = getattr(scheduler, name, None)
                if isinstance(rates, list):
                    for i in range(len(rates)):
                        _multiply(rates, i, factor)
        self.factor *= factor
        return f"learning rate {before:.4g} -> {self._first:.4g}"

    def warm_up(self, steps: int, start: float) -> str:
        """Begin to rise from `start` times the present rates; a warmup that goes on begins anew."""
        back = 1.0 / self._ramp
        self._left, self._steps, self._start = steps, steps, start
        return f"{self.scale(back * start)}, then back up in {steps} steps"

    def advance(self) -> None:
        """An optimizer step was made."""
        if self._left:
            before = self._ramp
            self._left -= 1
            self.scale(self._ramp / before)

    @property
    def is_warming_up(self) -> bool:
        """Whether `advance` has something to do."""
        return self._left > 0

    @property
    def _ramp(self) -> float:
        """What the rates are multiplied by in the midst of a warmup."""
        if not self._left:
            return 1.0
        return self._start + (1.0 - self._start) * (1.0 - self._left / self._steps)

    @property
    def _first(self) -> float:
        return float(self._optimizers[0].param_groups[0].get("lr", float("nan")))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; the rates themselves are in the states of optimizers and schedulers."""
        return {
            "factor": self.factor,
            "warmup": [self._left, self._steps, self._start],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.factor = state["factor"]
        self._left, self._steps, self._start = state["warmup"]


def _with_inner(schedulers: Sequence[Any]) -> Iterator[Any]:
    for scheduler in schedulers:
        yield scheduler
        yield from _with_inner(getattr(scheduler, "_schedulers", ()))


def _multiply(held: Any, key: Any, factor: float) -> None:
    if isinstance(held[key], Tensor):
        held[key].mul_(factor)  # a captured graph reads it in place
    else:
        held[key] *= factor
