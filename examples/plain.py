"""A plain PyTorch loop on digits, with clipped gradients: `python examples/plain.py [STEPS]`."""

import sys
from itertools import chain, islice, repeat

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from curvwatch import Watch


def loss_fn(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
pixels, classes = load_digits(return_X_y=True)
data = TensorDataset(torch.tensor(pixels).float() / 16, torch.tensor(classes))
torch.manual_seed(0)
loader = DataLoader(data, batch_size=128, shuffle=True, drop_last=True)
model = nn.Sequential(nn.Linear(64, 100), nn.Tanh(), nn.Dropout(0.1), nn.Linear(100, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
with Watch(model, optimizer, loss_fn, every_n_steps=100, probe_batches=4) as watch:
    for step, batch in enumerate(islice(chain.from_iterable(repeat(loader)), steps)):
        loss_fn(model, batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if "curvature/sharpness" in (readings := watch.step(batch)):
            print(f"step {step}: sharpness {readings['curvature/sharpness']:.2f}")
