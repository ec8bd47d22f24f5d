"""What `Watch(logger=...)` takes: Lightning's loggers, a SummaryWriter, a W&B run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curvwatch.results.loggers.tensorboard import is_tensorboard
from curvwatch.results.loggers.wandb import STEP, is_wandb


class _Bare:
    """An experiment with the interface of a Lightning logger."""

    def __init__(self, experiment: Any) -> None:
        self.experiment = experiment


class _Writer(_Bare):
    """A SummaryWriter."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.experiment.add_scalar(name, value, step)


class _WandbRun(_Bare):
    """A W&B run."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.experiment.log({**metrics, STEP: step})


def as_loggers(logger: Any) -> list[Any]:
    """`logger`, one or a list or None, as objects with `log_metrics(dict, step=)`.

    Raises:
        ValueError: one of them has no such method and is no SummaryWriter and no W&B run.
    """
    given = [] if logger is None else list(logger) if isinstance(logger, (list, tuple)) else [logger]
    return [_as_logger(one) for one in given]


def _as_logger(one: Any) -> Any:
    if callable(getattr(one, "log_metrics", None)):
        return one
    if is_tensorboard(one):
        return _Writer(one)
    if is_wandb(one):
        return _WandbRun(one)
    raise ValueError(
        f"logger={one!r}: an object with log_metrics(dict, step=...), a SummaryWriter or a W&B run, or "
        "a list of these is needed"
    )
