"""`lightning` and `pytorch_lightning` hold unrelated copies of every class; both take the monitor."""

from __future__ import annotations

from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch

from curvwatch import CurvatureMonitor
from tests.support.modules import LANDSCAPE, STEP, TIMES, ClassifierMixin, ListMixin, batches
from tests.support.trace import assert_same

NAMESPACES = [lightning.pytorch, pytorch_lightning]


def run(pl: Any, *, bare: bool = False, module: Any = None) -> tuple[CurvatureMonitor, Any]:
    """A run with the classes of `pl` alone."""

    class Classifier(ClassifierMixin, pl.LightningModule):
        pass

    class Listed(ListMixin, pl.loggers.logger.Logger):
        pass

    torch.manual_seed(0)
    monitor = CurvatureMonitor(every_n_steps=2)
    trainer = pl.Trainer(
        callbacks=monitor if bare else [monitor],
        logger=Listed(),
        max_epochs=1,
        accelerator="cpu",
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module or Classifier(), batches())
    assert isinstance(monitor, pl.Callback)
    assert monitor in trainer.callbacks
    return monitor, trainer.logger


@pytest.mark.parametrize("bare", [True, False])
def test_both_trainers_log_the_same(bare: bool) -> None:
    logged = []
    for pl in NAMESPACES:
        _, logger = run(pl, bare=bare)
        logged.append([[s, {k: v for k, v in m.items() if k not in TIMES}] for s, m in logger.rows])
        assert logger.keys() >= LANDSCAPE | STEP
    assert_same(*logged)


@pytest.mark.parametrize("pl", NAMESPACES)
def test_an_exception_takes_the_hooks_off(pl: Any) -> None:
    class Breaks(ClassifierMixin, pl.LightningModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 2:
                raise KeyError("mine")
            return self.loss(batch)

    module = Breaks()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module.make_optimizer = lambda _: optimizer
    with pytest.raises(KeyError, match="mine"):
        run(pl, module=module)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
