"""A call right before `training_step`, when nothing else can change what it sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_HOOK = "on_train_batch_start"


class BeforeStep:
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
        while isinstance(outermost, BeforeStep) and outermost._call is None:
            outermost = outermost._wrapped
        if isinstance(outermost, BeforeStep):
            setattr(self._strategy, _HOOK, outermost)
        else:  # the strategy's own method
            vars(self._strategy).pop(_HOOK, None)
