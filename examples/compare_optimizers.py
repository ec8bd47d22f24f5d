"""Six optimizers on the same images, with the same batches, number of gradients and readings.

    python examples/compare_optimizers.py [STEPS]
    curvwatch compare runs/compare -o report.html    # or tensorboard --logdir runs/compare

On Fashion-MNIST where Debian's dataset-fashion-mnist is installed, else on scikit-learn's digits. Rates
are the best of 0.0001, 0.0003, ..., 1 by Fashion-MNIST's training loss in steps 900 to 1000.
"""

import gzip
import sys
from pathlib import Path

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from sklearn.datasets import load_digits
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from curvwatch import CurvatureMonitor

FASHION = Path("/usr/share/datasets/fashion-mnist")
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.3),
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "nesterov": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: optim.Adam(p, lr=3e-3),
    "adamw": lambda p: optim.AdamW(p, lr=3e-3, weight_decay=0.1),
    "rmsprop": lambda p: optim.RMSprop(p, lr=1e-3),
}


def images():
    if not FASHION.is_dir():
        x, y = map(torch.tensor, load_digits(return_X_y=True))
        return x.float(), y
    files = sorted(FASHION.glob("train-*"))
    x, y = (np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8) for file in files)
    return torch.tensor(x[16:][: 784 * 20000]).view(-1, 784).float(), torch.tensor(y[8:20008]).long()


class Classifier(L.LightningModule):
    def __init__(self, optimizer, pixels: int) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.net = nn.Sequential(nn.Linear(pixels, 100), nn.Tanh(), nn.Linear(100, 10))

    def training_step(self, batch):
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
x, y = images()
x = (x - x.mean()) / x.std()
for name, optimizer in OPTIMIZERS.items():
    L.seed_everything(0)
    logger = TensorBoardLogger("runs/compare", name=name)
    loggers = [logger, CSVLogger("runs/compare", name=name, version=logger.version)]
    loader = DataLoader(TensorDataset(x, y), 256, shuffle=True, drop_last=True)
    monitor = CurvatureMonitor(every_n_steps=50, probe_batches=2)
    trainer = L.Trainer(max_steps=steps, accelerator="cpu", logger=loggers, callbacks=[monitor])
    trainer.fit(Classifier(optimizer, x.shape[1]), loader)
    loss, ratio = map(monitor.history.latest, ("curvature/loss", "curvature/stability_ratio"))
    print(f"{name}: loss {loss:.3f}, stability ratio {ratio:.2f}")
print("curvwatch compare runs/compare -o report.html")
