"""Small modules, data and loggers that the tests of the Lightning side share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from curvwatch import CurvwatchWarning
from curvwatch.measures import COST_METRICS, Sharpness, StepGeometry

FEATURES, CLASSES = 6, 3
# of a probe of several batches
SPREAD = {"curvature/sharpness_stderr"}
# of a probe of one batch, the default
LANDSCAPE = {*Sharpness.metrics, *COST_METRICS} - SPREAD
STEP = set(StepGeometry.metrics)
# differ from run to run
TIMES = {"curvature/cost_seconds", "curvature/cost_share"}


def examples(n: int = 24, *, seed: int = 7) -> TensorDataset:
    """Gaussian inputs with labels that a small network can learn."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, FEATURES, generator=generator)
    return TensorDataset(x, x[:, :CLASSES].argmax(dim=1))


def batches(n: int = 24, *, batch_size: int = 4, shuffle: bool = False) -> DataLoader:
    """`n` examples, `n / batch_size` steps an epoch."""
    return DataLoader(examples(n), batch_size=batch_size, shuffle=shuffle)


def mlp(dropout: float = 0.0) -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, CLASSES))


def sgd(params: Iterable[Tensor], *, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=lr)


def adam(params: Iterable[Tensor], *, lr: float = 1e-2) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr=lr)


class ClassifierMixin:
    """A LightningModule of either namespace, once mixed with one."""

    def __init__(
        self,
        net: nn.Module | None = None,
        optimizer: Callable[[Iterable[Tensor]], Any] = sgd,
    ) -> None:
        super().__init__()
        self.net = mlp() if net is None else net
        self.make_optimizer = optimizer

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.parameters())


class Classifier(ClassifierMixin, pl.LightningModule):
    """Cross-entropy of a small network; logs `train_loss`."""


class Validated(Classifier):
    """Logs `val_loss` too."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))


class ListMixin:
    """A logger of either namespace that keeps what it is given in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "list"

    @property
    def version(self) -> str:
        return "0"

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def steps(self, name: str) -> list[int | None]:
        """The steps at which `name` was logged."""
        return [step for step, metrics in self.rows if name in metrics]

    def values(self, name: str) -> list[float]:
        """The values of `name`, in order."""
        return [metrics[name] for _, metrics in self.rows if name in metrics]

    def keys(self) -> set[str]:
        """All names that were logged."""
        return {key for _, metrics in self.rows for key in metrics}


class ListLogger(ListMixin, Logger):
    """Keeps what is logged as `rows` of (step, metrics)."""


def fit(
    module: pl.LightningModule,
    *callbacks: pl.Callback,
    data: Any = None,
    val: Any = None,
    logger: Any = True,
    max_steps: int = -1,
    ckpt_path: Any = None,
    **options: Any,
) -> pl.Trainer:
    """Fit for one epoch by default, quietly; `logger=True` is a `ListLogger`."""
    options = {
        "max_epochs": 1 if max_steps == -1 else -1,
        "max_steps": max_steps,
        "accelerator": "cpu",
        "devices": 1,
        "log_every_n_steps": 1,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        **options,
    }
    logger = ListLogger() if logger is True else logger
    trainer = pl.Trainer(logger=logger, callbacks=list(callbacks), **options)
    trainer.fit(module, batches() if data is None else data, val, ckpt_path=ckpt_path)
    return trainer


@contextmanager
def told() -> Iterator[list[str]]:
    """The texts of all CurvwatchWarnings inside, once it is left; other warnings stay errors."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as guard:
        warnings.simplefilter("always", CurvwatchWarning)
        yield texts
    texts += [str(w.message) for w in guard]


def is_ours(name: str) -> bool:
    """Whether a metric is curvwatch's."""
    return name.startswith(("curvature/", "step/", "stability_ratio"))


def without_ours(metrics: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in metrics.items() if not is_ours(k)}
