"""Everything that a run with a monitor could leave changed, as values to compare bit by bit."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from types import MethodType
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from tests.support.modules import without_ours

# keyed by id(); the Trainer is looked at by itself
SKIPPED = {"_metric_attributes", "_trainer", "_fabric"}
GENERATORS = (torch.Generator, random.Random, np.random.Generator)


def picture(value: Any, seen: dict[int, Any] | None = None) -> Any:
    """`value` and all that hangs on it, copied."""
    seen = {} if seen is None else seen
    if isinstance(value, (str, bytes, int, float, bool, type(None))):
        return value
    if id(value) in seen:
        return "seen"
    seen[id(value)] = value  # kept alive, or another object could get its id
    if isinstance(value, Tensor):
        grad = value.grad.clone() if value.is_leaf and value.grad is not None else None
        flags = (value.requires_grad, value.is_leaf, type(value).__name__)
        return {"data": value.detach().clone(), "grad": grad, "flags": flags}
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, Mapping):
        return {k: picture(v, seen) for k, v in value.items()}
    if isinstance(value, (list, tuple, deque, set)):
        return [picture(v, seen) for v in value]
    if isinstance(value, MethodType):
        return picture(value.__self__, seen)
    if isinstance(value, nn.Module) or type(value).__module__.startswith(("tests.", "types")):
        names = [*getattr(value, "__dict__", ()), *getattr(value, "__slots__", ())]
        state = {name: getattr(value, name) for name in names if name not in SKIPPED}
        for name in names:
            if name.endswith("_hooks") and isinstance(state[name], Mapping):
                # keyed by a number that goes on from run to run
                state[name] = list(state[name].values())
        return {name: picture(v, seen) for name, v in state.items()}
    return type(value).__name__


def world() -> dict[str, Any]:
    """What is global: random states and torch's switches."""
    return {
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1:3],
        "python": random.getstate(),
        "switches": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_default_dtype(),
            torch.is_autocast_enabled("cpu"),
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
            torch.backends.cudnn.enabled,
        ),
    }


def state_of(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
    """The module, its optimizers and schedulers, and what the Trainer knows."""
    return {
        "world": world(),
        "module": picture(module),
        "modes": {name: m.training for name, m in module.named_modules()},
        "attributes": {name: list(vars(m)) for name, m in module.named_modules()},
        "optimizers": [picture(o.state_dict()) for o in trainer.optimizers],
        "step hooks": [
            [len(o._optimizer_step_pre_hooks), len(o._optimizer_step_post_hooks)]
            for o in trainer.optimizers
        ],
        "tensor hooks": [len(p._backward_hooks or ()) for p in module.parameters()],
        "schedulers": [picture(c.scheduler.state_dict()) for c in trainer.lr_scheduler_configs],
        "callback_metrics": without_ours(dict(trainer.callback_metrics)),
        "logged_metrics": without_ours(dict(trainer.logged_metrics)),
        "progress_bar_metrics": without_ours(dict(trainer.progress_bar_metrics)),
        "should_stop": trainer.should_stop,
        "global_step": trainer.global_step,
        "fx": module._current_fx_name,
    }


class Witness(pl.Callback):
    """Takes a picture before and after each batch, after the monitor."""

    def __init__(self) -> None:
        self.pictures: list[dict[str, Any]] = []

    def look(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any) -> None:
        now = {**state_of(trainer, module), "batch": picture(batch)}
        now.pop("step hooks")  # the monitor's own, gone at the end
        self.pictures.append(now)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.look(trainer, module, batch)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.look(trainer, module, batch)


def assert_same(a: Any, b: Any, at: str = "") -> None:
    """Bit-identical, or an AssertionError that names the first place that differs."""
    assert type(a) is type(b), f"{at}: {type(a).__name__} and {type(b).__name__}"
    if isinstance(a, Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), at
        bits = [t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
        assert torch.equal(*bits), f"{at}: {a} and {b}"
    elif isinstance(a, np.ndarray):
        assert a.tobytes() == b.tobytes(), f"{at}: {a} and {b}"
    elif isinstance(a, dict):
        assert list(a) == list(b), f"{at}: {list(a)} and {list(b)}"
        for key in a:
            assert_same(a[key], b[key], f"{at}[{key!r}]")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), f"{at}: {len(a)} and {len(b)} items"
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{at}[{i}]")
    elif isinstance(a, float):
        assert a.hex() == b.hex(), f"{at}: {a} and {b}"
    else:
        assert a == b, f"{at}: {a} and {b}"
