"""The loss of a LightningModule's `training_step`, without a Trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import nn

from curvwatch.errors import CurvwatchError
from curvwatch.training.lightning.training_step import (
    attached_trainer,
    is_missing_trainer,
    parameters_of_training_step,
    silent_loggers,
    takes_batch_idx,
)
from curvwatch.training.run import StepInput


def is_lightning(module: nn.Module) -> bool:
    """Whether `module` is a LightningModule of either namespace."""
    return any(
        base.__name__ == "LightningModule" and "lightning" in base.__module__
        for base in type(module).__mro__
    )


class ModuleLoss:
    """From a `StepInput` to the loss of `training_step`; what it logs goes nowhere.

    Args:
        module: isolated while this is called.

    Raises:
        CurvwatchError: `training_step` cannot be run by itself; the message says why.
    """

    def __init__(self, module: Any) -> None:
        if not module.automatic_optimization:
            raise CurvwatchError(
                f"{type(module).__name__} optimizes by hand, so training_step returns no loss of one "
                "function: give loss_fn=lambda module, batch: ..."
            )
        names = parameters_of_training_step(module)
        if "dataloader_iter" in names:
            raise CurvwatchError(
                f"training_step of {type(module).__name__} takes a dataloader_iter and no batch: give "
                "loss_fn=lambda module, batch: ..."
            )
        self._with_index = takes_batch_idx(names)
        self._module = module

    def __call__(self, item: StepInput) -> Any:
        """The loss, or whatever `training_step` returned instead."""
        arguments = item[:2] if self._with_index else item[:1]
        with mute_module(self._module):
            try:
                return self._module.training_step(*arguments)
            except RuntimeError as error:
                if not is_missing_trainer(error):
                    raise
                raise CurvwatchError(
                    f"training_step of {type(self._module).__name__} asks for self.trainer, and there "
                    "is none: give loss_fn=lambda module, batch: ..."
                ) from error


@contextmanager
def mute_module(module: nn.Module) -> Iterator[None]:
    """Discard what `module`, which is isolated, logs."""
    for part in module.modules():
        if is_lightning(part):
            # on the instance, whose state is a copy: dropped when the isolation ends
            vars(part).update(log=_nowhere, log_dict=_nowhere)
    trainer = attached_trainer(module)
    with nullcontext() if trainer is None else silent_loggers(trainer):
        yield


def _nowhere(*_: Any, **__: Any) -> None:
    return None
