"""What takes long is made by one worker, for all of them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from filelock import FileLock  # torch brings it

T = TypeVar("T")


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], T]) -> T:
    """What `make(folder)` returned in whichever worker of this run came first."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # a worker's own is a folder of the run's
        root = root.parent
    kept = root / f"{name}.pickle"
    with FileLock(root / f"{name}.lock"):
        if not kept.exists():
            (root / name).mkdir()
            kept.write_bytes(pickle.dumps(make(root / name)))
        found: T = pickle.loads(kept.read_bytes())
    return found
