"""Services that a training step logs to by itself hear nothing of a reading."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from threading import get_ident
from typing import Any

# by module: the class and the method that everything it logs passes through (torch 2.4 to 2.13, wandb
# 0.16 to 0.31)
_LOGS = {
    "torch.utils.tensorboard.writer": ("FileWriter", "add_event"),
    "wandb.sdk.wandb_run": ("Run", "_log"),
}


@contextmanager
def quiet_services() -> Iterator[None]:
    """Let SummaryWriters and W&B runs drop what this thread logs meanwhile."""
    with ExitStack() as stack:
        for module, (name, method) in _LOGS.items():
            owner = getattr(sys.modules.get(module), name, None)  # who has not imported it cannot log
            if callable(getattr(owner, method, None)):
                stack.enter_context(_dropped(owner, method))
        yield


@contextmanager
def _dropped(owner: Any, method: str) -> Iterator[None]:
    original = getattr(owner, method)
    thread = get_ident()

    @wraps(original)
    def drop(*args: Any, **kwargs: Any) -> Any:
        return None if get_ident() == thread else original(*args, **kwargs)

    setattr(owner, method, drop)
    try:
        yield
    finally:
        setattr(owner, method, original)
