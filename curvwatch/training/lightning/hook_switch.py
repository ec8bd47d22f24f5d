"""Hooks of a callback that the Trainer calls only while they are needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback

# called in every batch or step; a call that does nothing costs some 3 microseconds
_PER_STEP = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
_CALLS = 50


class HookSwitch:
    """Hides hooks of `callback` from the Trainer, which passes over what cannot be called.

    Hooks that a subclass of `own` overrides are left alone.

    Args:
        callback: of a Trainer.
        own: the class whose hooks are needed at readings alone.

    Attributes:
        dispatch_seconds: what the Trainer takes to call one hook that does nothing.
    """

    def __init__(self, callback: Any, own: type) -> None:
        self._callback = callback
        kind = type(callback)
        unused = [n for n in _PER_STEP if getattr(kind, n, None) is getattr(Callback, n, None)]
        self._at_readings = [
            n for n in _PER_STEP if n not in unused and getattr(kind, n) is getattr(own, n, None)
        ]
        self._hidden: set[str] = set()
        self._hide(unused)
        self.dispatch_seconds = _dispatch_seconds(callback)

    def hide(self) -> None:
        """Nothing is read in this step."""
        self._hide(self._at_readings)

    def show(self) -> None:
        """The hooks that readings need are called from now on."""
        self._show(self._at_readings)

    def remove(self) -> None:
        """The callback is as it was."""
        self._show(list(self._hidden))

    def _hide(self, names: list[str]) -> None:
        for name in names:
            if name not in self._hidden and name not in vars(self._callback):
                setattr(self._callback, name, None)
                self._hidden.add(name)

    def _show(self, names: list[str]) -> None:
        for name in names:
            if name in self._hidden:
                self._hidden.discard(name)
                if vars(self._callback).get(name, self) is None:
                    delattr(self._callback, name)


def _dispatch_seconds(callback: Any) -> float:
    """The least of many calls through a profiler that does nothing."""
    from lightning.pytorch.profilers import PassThroughProfiler

    profiler, times = PassThroughProfiler(), []
    for _ in range(_CALLS):
        begin = time.perf_counter()
        with profiler.profile(f"[Callback]{callback.state_key}.on_train_batch_end"):
            pass
        times.append(time.perf_counter() - begin)
    return min(times)


_HOOK = "on_train_batch_start"


class StrategyHook:
    """Calls `call(batch, batch_idx)` after every hook of callbacks and of the module.

    The module's `on_train_batch_start` runs after the callbacks', and may mix the batch or draw random
    numbers. The strategy's is the last before the step (read in 2.2 to 2.6), so it is wrapped.

    Args:
        strategy: the Trainer's.
        call: what to call.
    """

    def __init__(self, strategy: Any, call: Callable[[Any, int], None]) -> None:
        self._strategy = strategy
        self._wrapped = getattr(strategy, _HOOK)
        self._call: Callable[[Any, int], None] | None = call
        setattr(strategy, _HOOK, self)

    def __call__(self, batch: Any, batch_idx: int) -> Any:
        """The strategy's own hook, and the call."""
        result = self._wrapped(batch, batch_idx)
        if self._call is not None:
            self._call(batch, batch_idx)
        return result

    def remove(self) -> None:
        """Take the wrapper off; one below that of another monitor goes with that one."""
        self._call = None
        outermost = vars(self._strategy).get(_HOOK)
        while isinstance(outermost, StrategyHook) and outermost._call is None:
            outermost = outermost._wrapped
        if isinstance(outermost, StrategyHook):
            setattr(self._strategy, _HOOK, outermost)
        else:  # the strategy's own method
            vars(self._strategy).pop(_HOOK, None)
