"""SGD, SGD with momentum and Adam on handwritten digits, each riding its edge of stability.

    python examples/digits.py [STEPS]
    tensorboard --logdir runs/digits     # then the page CUSTOM SCALARS

The whole data set is one batch, so the probe's loss is the loss that is trained.
"""

import sys

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

from curvwatch import CurvatureMonitor

OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.2),
    "momentum": lambda params: torch.optim.SGD(params, lr=0.2, momentum=0.9),
    "adam": lambda params: torch.optim.Adam(params, lr=1e-3),
}


class Digits(L.LightningModule):
    def __init__(self, optimizer: str) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.net = nn.Sequential(
            nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 100), nn.Tanh(), nn.Linear(100, 10)
        )

    def training_step(self, batch):
        x, y = batch
        loss = (self.net(x) - y).square().sum(1).mean() / 2
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return OPTIMIZERS[self.optimizer](self.parameters())


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1200
pixels, classes = load_digits(return_X_y=True)
x = torch.tensor(pixels).float()
x = ((x - x.mean(0)) / x.std(0).clamp(min=1e-6)).clamp(-5, 5)
y = nn.functional.one_hot(torch.tensor(classes)).float()
for name in OPTIMIZERS:
    L.seed_everything(0)
    monitor = CurvatureMonitor(every_n_steps=20)
    logger = TensorBoardLogger("runs/digits", name=name)
    trainer = L.Trainer(max_steps=steps, accelerator="cpu", logger=logger, callbacks=[monitor])
    trainer.fit(Digits(name), DataLoader([(x, y)] * steps, batch_size=None))
    print(f"{name}: stability ratio {monitor.history['curvature/stability_ratio'].values[-1]:.2f}")
