"""Files that hold the weights of one step of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from curvwatch.errors import CurvwatchError
from curvwatch.landscape.checkpoints import load
from curvwatch.objective.processes import is_sharded

_FORMAT = "curvwatch_snapshot"
_VERSION = 1
_NAME = "step-{:09d}.pt"
_PATTERN = "step-*.pt"
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The weights of one step.

    Attributes:
        step: optimizer steps before it, 0 at the initialisation.
        epoch: in which it was taken.
        run: a random name that all snapshots of a run share.
        state: tensors by name, those of trained parameters and of buffers, in the dtypes that they had
            in training.
        stored: the precision of the file, where it is less; None: all bits are kept.
        hyper_parameters: that the module saved, where they are plain values: with them
            `load_from_checkpoint` takes the file, with `strict=False` where weights are frozen.
        lightning: the version of Lightning.
    """

    step: int
    epoch: int
    run: str
    state: Mapping[str, Tensor]
    stored: str | None = None
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)
    lightning: str = ""

    def save(self, folder: Path) -> Path:
        """Write it into `folder`, replacing that of the same step; returns where it is.

        A tensor with numbers too large for the precision of the file keeps its own.
        """
        half = None if self.stored is None else HALVES[self.stored]
        content = {
            _FORMAT: _VERSION,
            "step": self.step,
            "epoch": self.epoch,
            "run": self.run,
            "stored": self.stored,
            "dtypes": {name: str(t.dtype).removeprefix("torch.") for name, t in self.state.items()},
            # names that readers of checkpoints look for
            "hyper_parameters": dict(self.hyper_parameters),
            "pytorch-lightning_version": self.lightning,
            "state_dict": {name: _cast(t, half) for name, t in self.state.items()},
        }
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _NAME.format(self.step)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        torch.save(content, unfinished)
        unfinished.replace(path)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Snapshot:
        """Read what `save` wrote, with `weights_only=True`; tensors are cast back.

        Raises:
            CurvwatchError: there is no such file, or it is no snapshot.
        """
        content = load(Path(path))
        if not isinstance(content, Mapping) or content.get(_FORMAT) != _VERSION:
            raise CurvwatchError(f"{path} is no snapshot that this curvwatch can read")
        dtypes: dict[str, str] = content["dtypes"]
        state = {n: t.to(getattr(torch, dtypes[n])) for n, t in content["state_dict"].items()}
        return cls(
            content["step"],
            content["epoch"],
            content["run"],
            state,
            content["stored"],
            content["hyper_parameters"],
            content["pytorch-lightning_version"],
        )


def snapshots_in(folder: str | os.PathLike[str]) -> dict[int, Path]:
    """From each step that has a snapshot in `folder` to its file, in order.

    Raises:
        CurvwatchError: there is no snapshot.
    """
    found = files_in(Path(folder))
    if not found:
        raise CurvwatchError(f"there is no snapshot ({_PATTERN}) in {folder}")
    return found


def files_in(folder: Path) -> dict[int, Path]:
    """As `snapshots_in`; there may be none."""
    named = {path.stem.removeprefix("step-"): path for path in folder.glob(_PATTERN)}
    return dict(sorted((int(step), path) for step, path in named.items() if step.isdecimal()))


def run_of(path: Path) -> str | None:
    """The run that the snapshot at `path` is of, without reading its tensors; None if it is none."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # another program's file, or one that was cut
        return None
    run = content.get("run") if isinstance(content, Mapping) and _FORMAT in content else None
    return run if isinstance(run, str) else None


def taken_of(
    module: nn.Module, *, step: int, epoch: int, run: str, stored: str | None, lightning: str
) -> Snapshot:
    """A snapshot of `module` as it is, on the CPU: it may share the memory of weights.

    Raises:
        CurvwatchError: weights are spread over processes.
    """
    state: dict[str, Tensor] = {}
    # no state_dict(): it may call hooks of the user's
    # under each of its names, as in a state_dict
    for name, p in module.named_parameters(remove_duplicate=False):
        if is_sharded(p) or hasattr(p, "ds_id"):  # FSDP2, ZeRO 3
            raise CurvwatchError(f"the weights are spread over processes ({name} is, for one)")
        if p.requires_grad:
            state[name] = p
    for prefix, part in module.named_modules():
        for name, buffer in part._buffers.items():
            if buffer is not None and name not in part._non_persistent_buffers_set:
                state[f"{prefix}.{name}" if prefix else name] = buffer
    state = {name: t.detach().cpu() for name, t in state.items()}
    # private (2.2 to 2.6): the public module.hparams would create them where there are none
    own = vars(module).get("_hparams", {})
    hyper_parameters = dict(own) if _is_plain(own) else {}
    return Snapshot(step, epoch, run, state, stored, hyper_parameters, lightning)


def _is_plain(value: Any) -> bool:
    """Whether a file with `value` can be read without trust."""
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return type(value) in (list, tuple) and all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def _cast(t: Tensor, dtype: Any) -> Tensor:
    if dtype is None or not t.is_floating_point() or t.dtype.itemsize <= dtype.itemsize:
        return t
    narrow = t.to(dtype)
    kept = torch.equal(narrow.isfinite(), t.isfinite())
    return narrow if kept else t
