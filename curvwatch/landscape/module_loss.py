"""The loss of a LightningModule's `training_step`, without a Trainer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from curvwatch.errors import CurvwatchError
from curvwatch.training.lightning.training_step import silent_loggers
from curvwatch.training.run import StepInput

# a batch takes it from the data to training_step
_HOOKS = ("_on_before_batch_transfer", "_apply_batch_transfer_handler")


def is_lightning(module: nn.Module) -> bool:
    """Whether `module` is a LightningModule of either namespace."""
    return any(
        base.__name__ == "LightningModule" and "lightning" in base.__module__
        for base in type(module).__mro__
    )


class ModuleLoss:
    """From a `StepInput` to the loss of `training_step`; what it logs goes nowhere.

    Args:
        module: on loan while this is called.

    Raises:
        CurvwatchError: `training_step` cannot be run by itself; the message says why.
    """

    def __init__(self, module: Any) -> None:
        if not module.automatic_optimization:
            raise CurvwatchError(
                f"{type(module).__name__} optimizes by hand, so training_step returns no loss of one "
                "function: give loss_fn=lambda module, batch: ..."
            )
        names = list(inspect.signature(module.training_step).parameters)
        if "dataloader_iter" in names:
            raise CurvwatchError(
                f"training_step of {type(module).__name__} takes a dataloader_iter and no batch: give "
                "loss_fn=lambda module, batch: ..."
            )
        # as Lightning finds out (2.2 to 2.6)
        self._with_index = len(names) >= 2 or "batch_idx" in names
        self._module = module

    def __call__(self, item: StepInput) -> Any:
        """The loss, or whatever `training_step` returned instead."""
        arguments = item[:2] if self._with_index else item[:1]
        with silent(self._module):
            try:
                return self._module.training_step(*arguments)
            except RuntimeError as error:
                # Lightning's words (2.2 to 2.6)
                if "not attached to a `Trainer`" not in str(error):
                    raise
                raise CurvwatchError(
                    f"training_step of {type(self._module).__name__} asks for self.trainer, and there "
                    "is none: give loss_fn=lambda module, batch: ..."
                ) from error


@contextmanager
def silent(module: nn.Module) -> Iterator[None]:
    """Let what `module`, which is on loan, logs go nowhere."""
    for part in module.modules():
        if is_lightning(part):
            # on the instance, whose state is a copy: gone with the loan
            vars(part).update(log=_nowhere, log_dict=_nowhere)
    trainer = vars(module).get("_trainer")
    with nullcontext() if trainer is None else silent_loggers(trainer):
        yield


def _nowhere(*_: Any, **__: Any) -> None:
    return None


def feed_of(module: Any, device: torch.device) -> Callable[[Any], Any] | None:
    """From a batch of the data to what `training_step` has, on `device`, through the module's hooks.

    None where this Lightning has them elsewhere.
    """
    # private: what the training loop calls there (read in 2.2 to 2.6)
    if not all(callable(getattr(module, name, None)) for name in _HOOKS):
        return None

    def feed(batch: Any) -> Any:
        batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
        return module._apply_batch_transfer_handler(batch, device=device, dataloader_idx=0)

    return feed
