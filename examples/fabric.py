"""Lightning Fabric on digits, logged to CSV: `python examples/fabric.py [STEPS]`.

With `Fabric(devices=2, strategy="ddp")` readings are averaged over two processes.
"""

import sys
from itertools import chain, islice, repeat

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from curvwatch import Watch


def loss_fn(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
pixels, classes = load_digits(return_X_y=True)
data = TensorDataset(torch.tensor(pixels).float() / 16, torch.tensor(classes))
logger = CSVLogger("runs", name="fabric", flush_logs_every_n_steps=1)
fabric = Fabric(accelerator="cpu", devices=1, loggers=logger)
fabric.launch()
fabric.seed_everything(0, verbose=False)
net = nn.Sequential(nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 10))
model, optimizer = fabric.setup(net, torch.optim.Adam(net.parameters(), lr=1e-2))
loader = fabric.setup_dataloaders(DataLoader(data, batch_size=128, shuffle=True, drop_last=True))
with Watch(model, optimizer, loss_fn, every_n_steps=100, logger=fabric.loggers) as watch:
    for step, batch in enumerate(islice(chain.from_iterable(repeat(loader)), steps)):
        loss = loss_fn(model, batch)
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        readings = watch.step(batch, loss=loss)
        if "curvature/stability_ratio" in readings:
            print(f"step {step}: stability ratio {readings['curvature/stability_ratio']:.2f}")
