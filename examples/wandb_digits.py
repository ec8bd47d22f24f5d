"""Adam on minibatches of handwritten digits, logged to Weights & Biases.

    python examples/wandb_digits.py [STEPS]

Without an account, WANDB_MODE=offline writes the run to ./wandb and sends nothing; `wandb sync
wandb/offline-run-*` uploads it later. In W&B, group panels by the prefixes curvature/ and step/; alerts
of curvwatch arrive as W&B alerts.

The probe is the first 4 batches: a single small one is sharper than the whole loss.
"""

import sys

import lightning as L
import torch
from lightning.pytorch.loggers import WandbLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from curvwatch import CurvatureMonitor


class Digits(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))

    def training_step(self, batch):
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 500
pixels, classes = load_digits(return_X_y=True)
data = TensorDataset(torch.tensor(pixels / 16).float(), torch.tensor(classes))
L.seed_everything(0)
trainer = L.Trainer(
    max_steps=steps,
    accelerator="cpu",
    logger=WandbLogger(project="curvwatch-digits"),
    callbacks=[CurvatureMonitor(probe_batches=4, every_n_steps=20)],
    enable_checkpointing=False,
)
trainer.fit(Digits(), DataLoader(data, batch_size=64, shuffle=True))
