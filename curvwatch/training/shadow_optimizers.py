"""Compared optimizers that make shadow steps beside the optimizers of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim import optimizer as torch_optimizer

from curvwatch.errors import CurvwatchError, ErrorPolicy
from curvwatch.measures.compared import Compared, clipped
from curvwatch.objective.processes import is_sharded
from curvwatch.training.optimizer_groups import gradient_used, rate_of, trained
from curvwatch.training.schedule.clock import Clock


class ShadowOptimizer:
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
                f"{type(optimizer).__name__} is not a torch.optim.Optimizer that makes a step from "
                "one gradient"
            )
        self._optimizer = optimizer

    def save_weights(self, weights: Sequence[Tensor]) -> None:
        """Right before a step: save `weights`."""
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
    ) -> ShadowOptimizer:
        """Go on from `state_dict()`; from nothing where it is of other weights."""
        counts, known = state["counts"], [list(w.shape) for w in weights]
        if state["shapes"] != known[: sum(counts)]:
            return cls(compared, weights)
        shadow = cls(compared, weights[: counts[0]])
        for i in range(1, len(counts)):
            shadow.save_weights(weights[: sum(counts[: i + 1])])
        shadow._optimizer.load_state_dict(state["optimizer"])
        return shadow

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
        """Without global optimizer hooks, and without change to the random numbers of training."""
        if self._compared.is_built_in:
            with _without_global_hooks():
                yield
            return
        devices = {own.device for own in self._own.values() if own.device.type == "cuda"}
        with _without_global_hooks(), torch.random.fork_rng(devices=sorted(d.index for d in devices)):
            yield


@contextmanager
def _without_global_hooks() -> Iterator[None]:
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


_SHARDED = (
    "the weights are sharded, so the shadow steps of compared optimizers are not made: "
    "step/<name>/... is missing; use DDP"
)
_LBFGS = (
    "LBFGS evaluates several gradients in one step, so compared optimizers have none to "
    "use: step/<name>/... is missing"
)


class ShadowOptimizers:
    """Feeds compared optimizers with the gradients of each step.

    Args:
        compared: the optimizers.
        errors: where failures go: what failed is followed no further.
    """

    def __init__(self, compared: Sequence[Compared], *, errors: ErrorPolicy) -> None:
        self._compared = {c.name: c for c in compared}
        self._errors = errors
        self._optimizers: list[Optimizer] = []
        self._suffixes: list[str] = []
        self._clock = Clock()
        self._made: dict[tuple[str, int], ShadowOptimizer | None] = {}
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
                with self._guard(name, index):
                    shadow = self._find_or_make(name, index, weights)
                    if shadow is not None:
                        shadow.save_weights(weights)

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
                with self._guard(name, index):
                    shadow = self._made.get((name, index))
                    if shadow is not None and gradients:
                        shadow.feed(gradients)

    def steps(self, index: int, before: Mapping[int, Tensor]) -> dict[str, dict[int, Tensor]]:
        """By name the last shadow steps beside optimizer `index`, each by `id(weight)`.

        Args:
            index: of the optimizer.
            before: the weights before the step, by `id(weight)`.
        """
        made: dict[str, dict[int, Tensor]] = {}
        for name, compared in self._compared.items():
            with self._guard(name, index):
                shadow = self._made.get((name, index))
                if shadow is not None:
                    made[name] = shadow.steps(before)
                    if compared.is_built_in:
                        _scale(made[name], self._optimizers[index])
        return made

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: by suffix and name."""
        state = {suffix: dict(of_each) for suffix, of_each in self._resumed.items()}
        for (name, index), shadow in self._made.items():
            of_each = state.setdefault(self._suffixes[index], {})
            of_each.pop(name, None)
            if shadow is not None:
                of_each[name] = shadow.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._resumed, self._made = dict(state), {}

    def _find_or_make(self, name: str, index: int, weights: Sequence[Tensor]) -> ShadowOptimizer | None:
        key = (name, index)
        if key in self._made:
            return self._made[key]
        self._made[key] = None
        why = _SHARDED if any(map(is_sharded, weights)) else None
        if isinstance(self._optimizers[index], LBFGS):
            why = _LBFGS
        if why is not None:
            self._errors.warn_once(why)
            return None
        state = self._resumed.get(self._suffixes[index], {}).get(name)
        compared = self._compared[name]
        new = (
            ShadowOptimizer(compared, weights)
            if state is None
            else ShadowOptimizer.resumed(compared, weights, state)
        )
        self._made[key] = new
        return new

    def _guard(self, name: str, index: int) -> _ShadowGuard:
        return _ShadowGuard(self, name, index)


class _ShadowGuard:
    """Ends the following of one optimizer where it fails."""

    def __init__(self, shadows: ShadowOptimizers, name: str, index: int) -> None:
        self._shadows, self._key = shadows, (name, index)
        self._error_guard = shadows._errors.guard(
            f"computing the steps of the compared optimizer {name}"
        )

    def __enter__(self) -> None:
        self._error_guard.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is not None:
            self._shadows._made[self._key] = None
        return self._error_guard.__exit__(*error)


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
