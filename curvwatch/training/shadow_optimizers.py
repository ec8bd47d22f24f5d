"""All compared optimizers beside all optimizers of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import LBFGS, Optimizer

from curvwatch.faults import Faults
from curvwatch.measures.compared import Compared
from curvwatch.objective.sharding import is_sharded
from curvwatch.training.schedule.clock import Clock
from curvwatch.training.steps import gradient_used, rate_of, trained
from curvwatch.training.would_be import WouldBe

_SHARDED = (
    "the weights are sharded, so the would-be steps of compared optimizers are not made: "
    "step/<name>/... is missing; DDP can be compared"
)
_LBFGS = (
    "LBFGS looks at several gradients in a step, so there is none to feed compared optimizers with: "
    "step/<name>/... is missing"
)


class Following:
    """Feeds compared optimizers with the gradients of each step.

    Args:
        compared: the optimizers.
        faults: where failures go: what failed is followed no further.
    """

    def __init__(self, compared: Sequence[Compared], *, faults: Faults) -> None:
        self._compared = {c.name: c for c in compared}
        self._faults = faults
        self._optimizers: list[Optimizer] = []
        self._suffixes: list[str] = []
        self._clock = Clock()
        self._made: dict[tuple[str, int], WouldBe | None] = {}
        self._resumed: Mapping[str, Any] = {}

    def start(self, optimizers: Sequence[Optimizer], suffixes: Sequence[str], clock: Clock) -> None:
        """Follow `optimizers`; what was fed before, to those with the same suffixes, is kept.

        Args:
            optimizers: of the run.
            suffixes: of their metrics.
            clock: counts the time that this takes as reading.
        """
        self._resumed = self.state_dict()
        self._optimizers, self._suffixes, self._clock = list(optimizers), list(suffixes), clock
        self._made = {}

    def before(self, index: int) -> None:
        """Optimizer `index` is about to make a step."""
        if not self._compared:
            return
        with self._clock.reading():
            weights = trained(self._optimizers[index])
            for name in self._compared:
                with self._caught(name, index):
                    would_be = self._of(name, index, weights)
                    if would_be is not None:
                        would_be.look(weights)

    def after(self, index: int) -> None:
        """Optimizer `index` made a step, and has its gradients still."""
        if not self._compared:
            return
        with self._clock.reading():
            optimizer = self._optimizers[index]
            # a fused one is called also where a GradScaler skips the step
            if float(getattr(optimizer, "found_inf", None) or 0.0):
                return
            gradients = gradient_used(optimizer)
            for name in self._compared:
                with self._caught(name, index):
                    would_be = self._made.get((name, index))
                    if would_be is not None and gradients:
                        would_be.feed(gradients)

    def steps(self, index: int, before: Mapping[int, Tensor]) -> dict[str, dict[int, Tensor]]:
        """By name the last would-be steps beside optimizer `index`, each by `id(weight)`.

        Args:
            index: of the optimizer.
            before: the weights before the step, by `id(weight)`.
        """
        made: dict[str, dict[int, Tensor]] = {}
        for name, compared in self._compared.items():
            with self._caught(name, index):
                would_be = self._made.get((name, index))
                if would_be is not None:
                    made[name] = would_be.steps(before)
                    if compared.is_built_in:
                        _scale(made[name], self._optimizers[index])
        return made

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: by suffix and name."""
        state = {suffix: dict(of_each) for suffix, of_each in self._resumed.items()}
        for (name, index), would_be in self._made.items():
            of_each = state.setdefault(self._suffixes[index], {})
            of_each.pop(name, None)
            if would_be is not None:
                of_each[name] = would_be.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._resumed, self._made = dict(state), {}

    def _of(self, name: str, index: int, weights: Sequence[Tensor]) -> WouldBe | None:
        key = (name, index)
        if key in self._made:
            return self._made[key]
        self._made[key] = None
        why = _SHARDED if any(map(is_sharded, weights)) else None
        if isinstance(self._optimizers[index], LBFGS):
            why = _LBFGS
        if why is not None:
            self._faults.tell(why)
            return None
        state = self._resumed.get(self._suffixes[index], {}).get(name)
        compared = self._compared[name]
        new = WouldBe(compared, weights) if state is None else WouldBe.resumed(compared, weights, state)
        self._made[key] = new
        return new

    def _caught(self, name: str, index: int) -> _Caught:
        return _Caught(self, name, index)


class _Caught:
    """Ends the following of one optimizer where it fails."""

    def __init__(self, following: Following, name: str, index: int) -> None:
        self._following, self._key = following, (name, index)
        self._caught = following._faults.caught(f"following the compared optimizer {name}")

    def __enter__(self) -> None:
        self._caught.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is not None:
            self._following._made[self._key] = None
        return self._caught.__exit__(*error)


def _scale(steps: dict[int, Tensor], optimizer: Optimizer) -> None:
    """Give weights of several groups the ratio of learning rates that the run has for them."""
    rates = [rate_of(group) for group in optimizer.param_groups]
    largest = max(rates)
    if len(set(rates)) == 1 or not largest > 0 or any(rate != rate for rate in rates):
        return
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        for p in group["params"]:
            if id(p) in steps:
                steps[id(p)] *= rate / largest
