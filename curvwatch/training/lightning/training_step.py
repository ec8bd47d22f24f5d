"""`training_step` once more, in silence: its loss, and nothing that it logs."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from curvwatch.training.lightning.dataloader_iter import Fetched, ReplayIterator
from curvwatch.training.lightning.isolated_optimizers import IsolatedOptimizers, OnStep
from curvwatch.training.run import StepInput

if TYPE_CHECKING:
    import lightning.pytorch as pl


# of a module: what takes a batch from the data to training_step
_TRANSFER_HOOKS = ("_on_before_batch_transfer", "_apply_batch_transfer_handler")

LossFn = Callable[[Any, Any], Any]


def check_loss_fns(loss_fn: LossFn | Sequence[LossFn] | None) -> LossFn | list[LossFn] | None:
    """`loss_fn` as it is, a sequence as a list.

    Raises:
        ValueError: it is neither a function nor a sequence of functions.
    """
    if loss_fn is None or callable(loss_fn):
        return loss_fn
    if not isinstance(loss_fn, Sequence) or not loss_fn or not all(map(callable, loss_fn)):
        raise ValueError(
            f"loss_fn={loss_fn!r}: a function of the module and a batch, or a list of them, one for "
            "each optimizer, is needed"
        )
    return list(loss_fn)


class TrainingStepLoss:
    """From a `StepInput` to the loss of `training_step`, as a plain function.

    Args:
        trainer: in the midst of `fit`.
        module: whose `training_step` is run; not isolated yet.
        loss_fn: `loss_fn(module, batch)` to use instead, for manual optimization.
    """

    def __init__(
        self, trainer: pl.Trainer, module: pl.LightningModule, *, loss_fn: LossFn | None = None
    ) -> None:
        self._trainer = trainer
        self._module = module
        self._loss_fn = loss_fn
        self._isolated = IsolatedOptimizers(trainer, module)

    def __call__(self, item: StepInput) -> Any:
        """The loss, or whatever `training_step` returned instead."""
        with self._silent(item, on_step=_run_closure, on_clear=_clear):
            if self._loss_fn is not None:
                return self._loss_fn(self._module, item.data)
            return self._training_step(item)

    def with_function(self, function: Callable[[Any], Any]) -> Callable[[StepInput], Any]:
        """`function` of the batch alone, called as `training_step` is: in silence, in its precision."""

        def loss(item: StepInput) -> Any:
            with self._silent(item, on_step=_run_closure, on_clear=_clear):
                return function(item.data)

        return loss

    @contextmanager
    def _silent(
        self,
        item: StepInput,
        *,
        on_step: OnStep,
        on_clear: Callable[[Sequence[Tensor]], None],
    ) -> Iterator[None]:
        with (
            _silence(self._trainer, self._module, item),
            self._isolated.isolated(on_step, on_clear),
            self._trainer.precision_plugin.train_step_context(),
        ):
            yield

    def _training_step(self, item: StepInput) -> Any:
        # not strategy.training_step: that one passes through DDP's wrapper, which would
        # wait for gradients
        return self._module.training_step(*self._arguments(item))

    def _arguments(self, item: StepInput) -> Sequence[Any]:
        # private (2.2 to 2.6): the fetcher holds the iterator, where training_step takes one
        iterator = getattr(self._trainer.fit_loop._data_fetcher, "iterator_wrapper", None)
        if iterator is not None:
            return [ReplayIterator(item.data, self._module, iterator)]
        # whether training_step takes a batch_idx is found out there (read in 2.2 to 2.6)
        loop = self._trainer.fit_loop.epoch_loop
        return list(loop._build_kwargs(OrderedDict(), item.data, item.batch_idx).values())


def _run_closure(_: Optimizer, closure: Callable[[], Any] | None, __: bool) -> Any:
    return None if closure is None else closure()


def _clear(weights: Sequence[Tensor]) -> None:
    for weight in weights:
        weight.grad = None


@contextmanager
def _silence(trainer: pl.Trainer, module: pl.LightningModule, item: StepInput) -> Iterator[None]:
    """Let `self.log` and the loggers of `trainer` write to nowhere.

    Private attributes of Lightning, read in 2.2 to 2.6: `_results` collects what `self.log` says;
    `_logger_connector` holds `callback_metrics` and knows which hook logged last;
    `_current_fx_name` is the hook that `self.log` believes to be in; `global_step` is a count of the
    loop's progress.
    """
    loop = trainer.fit_loop.epoch_loop
    connector = trainer._logger_connector
    results, stop = loop._results, trainer.should_stop
    connector_state = vars(connector)
    progress = steps_taken(trainer, module)
    completed = progress.completed
    silent = type(results)(training=True)
    # `self.log` reads the batch size from it
    silent.batch = item.data[0].batch if isinstance(item.data, Fetched) and item.data else item.data
    try:
        loop._results = silent
        connector.__dict__ = {
            k: dict(v) if isinstance(v, dict) else v for k, v in connector_state.items()
        }
        if item.global_step is not None:
            progress.completed = item.global_step
        vars(trainer)["save_checkpoint"] = _save_nothing  # it would save a reading's weights
        module._current_fx_name = "training_step"  # the module is isolated: restored with it
        with silent_loggers(trainer):
            yield
    finally:
        vars(trainer).pop("save_checkpoint", None)
        loop._results = results
        connector.__dict__ = connector_state
        trainer.should_stop = stop
        progress.completed = completed


@contextmanager
def silent_loggers(trainer: pl.Trainer) -> Iterator[None]:
    """Let the loggers of `trainer` write to nowhere."""
    loggers = trainer.loggers
    trainer.loggers = [cast(Any, _SilentLogger(logger)) for logger in loggers]
    try:
        yield
    finally:
        trainer.loggers = loggers


def _save_nothing(*_: Any, **__: Any) -> None:
    return None


def steps_taken(trainer: pl.Trainer, module: pl.LightningModule) -> Any:
    """Where the loop counts `global_step`."""
    loop = trainer.fit_loop.epoch_loop
    if module.automatic_optimization:
        return loop.automatic_optimization.optim_progress.optimizer.step.total
    return loop.manual_optimization.optim_step_progress.total


class _SilentLogger:
    """Looks like `logger` to `isinstance`, names its files alike, and writes nothing."""

    def __init__(self, logger: Any) -> None:
        self.__dict__["_logger"] = logger

    @property  # type: ignore[misc]  # isinstance shall see the logger's class
    def __class__(self) -> Any:
        return type(self._logger)

    def __getattr__(self, name: str) -> Any:
        if name == "experiment":
            return _Nothing()
        value = getattr(self._logger, name)
        return _Nothing() if callable(value) else value


class _Nothing:
    """Takes any call, gives nothing."""

    def __getattr__(self, name: str) -> _Nothing:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> _Nothing:
        return self

    def __getitem__(self, key: Any) -> _Nothing:
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        return None

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *args: Any) -> None:
        return None

    def __iter__(self) -> Iterator[Any]:
        return iter(())


# of a LightningModule without a loop of a Trainer


def parameters_of_training_step(module: Any) -> list[str]:
    """The names of the parameters of `training_step`."""
    return list(inspect.signature(module.training_step).parameters)


def takes_batch_idx(names: Sequence[str]) -> bool:
    """Whether a `training_step` with these parameters takes a batch_idx, as in Lightning 2.2 to 2.6."""
    return len(names) >= 2 or "batch_idx" in names


def is_missing_trainer(error: RuntimeError) -> bool:
    """Whether Lightning raised `error` as a module has no Trainer (its words in 2.2 to 2.6)."""
    return "not attached to a `Trainer`" in str(error)


def attached_trainer(module: Any) -> Any:
    """The Trainer of `module`, or None: a private attribute, as `module.trainer` raises an error."""
    return vars(module).get("_trainer")


def batch_transfer_of(module: Any, device: torch.device) -> Callable[[Any], Any] | None:
    """From a batch of the data to what `training_step` gets, on `device`, by the module's hooks.

    None where this version of Lightning has no such hooks.
    """
    # private: what the training loop calls there (read in 2.2 to 2.6)
    if not all(callable(getattr(module, name, None)) for name in _TRANSFER_HOOKS):
        return None

    def feed(batch: Any) -> Any:
        batch = module._on_before_batch_transfer(batch, dataloader_idx=0)
        return module._apply_batch_transfer_handler(batch, device=device, dataloader_idx=0)

    return feed
