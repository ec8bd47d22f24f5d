"""What each forward pass of a step begins from: random numbers, buffers, attributes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from curvwatch.objective.samples import RecordedBatch
from curvwatch.training.plan import ReadingPlan
from curvwatch.training.run import StepInput, TrainingRun

# its batch is not known yet
_UNKNOWN = StepInput(None, 0)


class ForwardStateRecorder:
    """Keeps what the forward passes of the coming step begin from, while armed.

    Args:
        run: the loop.
        called: the module whose call is a forward pass.
        keep: given a function, calls it unless the step was made already.
    """

    def __init__(
        self, run: TrainingRun, called: nn.Module, keep: Callable[[Callable[[], None]], None]
    ) -> None:
        self._run = run
        self._keep = keep
        self._hook = _ForwardHook(self)
        self._called = called
        self._take_off: Callable[[], None] | None = None
        self._at_rest, self._seen = ReadingPlan(), ReadingPlan()

    def arm(self) -> None:
        """Keep the present state, for a model that is not called, and those of coming calls."""
        self.disarm()
        self._at_rest.save_module_state(self._run, _UNKNOWN)
        self._at_rest.add_batch(self._run, _UNKNOWN)
        self._take_off = _call_before(self._called, self._hook)

    def disarm(self) -> ReadingPlan:
        """Stop, forget, and give what was kept: a sample without a batch for each forward pass."""
        if self._take_off is not None:
            self._take_off()
            self._take_off = None
        kept = self._seen if self._seen.samples else self._at_rest
        self._at_rest, self._seen = ReadingPlan(), ReadingPlan()
        return kept

    def see(self, batch: Any = None) -> None:
        """A forward pass begins; of `batch`, where that is known."""
        if self._take_off is not None:
            self._keep(lambda: self._see(StepInput(batch, len(self._seen.samples))))

    def _see(self, item: StepInput) -> None:
        if not self._seen.samples:
            self._seen.save_module_state(self._run, item)
        self._seen.add_batch(self._run, item)


class _ForwardHook:
    """Reports a forward pass to `ForwardStateRecorder`; on a copy of the model it does nothing."""

    def __init__(self, recorder: ForwardStateRecorder | None = None) -> None:
        # weak: what hangs on a module is taken for a part of it
        self._recorder = None if recorder is None else weakref.ref(recorder)

    def __call__(self, module: nn.Module, args: Any) -> None:
        # inside a compiled function there is nothing to keep: a trace has no state
        if torch.compiler.is_compiling():
            return
        # a validation is no part of a step
        if self._recorder is None or not (module.training or torch.is_grad_enabled()):
            return
        recorder = self._recorder()
        if recorder is not None:
            recorder.see()

    def __reduce__(self) -> tuple[type[_ForwardHook], tuple[()]]:
        return _ForwardHook, ()


def _call_before(module: nn.Module, hook: _ForwardHook) -> Callable[[], None]:
    """Call `hook` before each call of `module`, until what is returned is called."""
    compiled = getattr(module, "_compiled_call_impl", None)
    if compiled is None:
        # before hooks of others, which draw random numbers or gather sharded weights
        return module.register_forward_pre_hook(hook, prepend=True).remove

    # of a module that compiled itself, `module.compile()`, a hook would be compiled, too
    def call(*args: Any, **kwargs: Any) -> Any:
        hook(module, args)
        return compiled(*args, **kwargs)

    def put_back() -> None:
        if vars(module).get("_compiled_call_impl") is call:
            module._compiled_call_impl = compiled

    module._compiled_call_impl = call
    return put_back


def samples_of(kept: Sequence[RecordedBatch], batches: Sequence[Any]) -> list[RecordedBatch]:
    """`batches`, each with what its forward pass began from.

    A loss may call the model several times for each batch.
    """
    return [
        replace(kept[i * len(kept) // len(batches)], batch=StepInput(batch, i))
        for i, batch in enumerate(batches)
        if kept
    ]
