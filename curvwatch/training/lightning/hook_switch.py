"""Hooks of a callback that the Trainer calls only while they are needed."""

from __future__ import annotations

import time
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
