"""Every test: one thread, the same seeds, a Lightning that does not chat."""

import logging
import random
from collections.abc import Iterator

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning
import torch

# other threads add nothing at these sizes, and sums of several threads depend on their number
torch.set_num_threads(1)

# tips, and which accelerators there are
for package in (lightning.pytorch, pytorch_lightning):
    logging.getLogger(package.__name__).setLevel(logging.ERROR)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture
def double_precision() -> Iterator[None]:
    """Float64 as the default, and seed 0: for comparisons with dense twins."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
