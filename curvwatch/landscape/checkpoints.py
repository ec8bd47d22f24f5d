"""Weights of a checkpoint as a flat vector of a surface."""

from __future__ import annotations

import math
import os
import pickle
import warnings
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from curvwatch.checks import check_int
from curvwatch.errors import CurvwatchError, CurvwatchWarning
from curvwatch.landscape.surface import Group, Surface, checked
from curvwatch.objective.flat_layout import Layout


def check_count(name: str, value: object, *, at_least: int) -> None:
    """Raise a ValueError unless `value` is a whole number of `at_least` or more."""
    check_int(name, value, at_least=at_least, what=f"a whole number of {at_least} or more")


def check_positive(name: str, value: object) -> None:
    """Raise a ValueError unless `value` is a positive number, or None."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r}: a positive number is needed")


def check_has_values(module: nn.Module) -> None:
    """Raise a CurvwatchError unless all parameters and buffers of `module` have values."""
    for name, t in chain(module.named_parameters(), module.named_buffers()):
        check_values(name, t, f"the {type(module).__name__}")


def check_values(name: str, t: Tensor, where: str) -> None:
    """Raise a CurvwatchError unless `t` has values."""
    if is_lazy(t):
        raise CurvwatchError(
            f"{name} of {where} has no values yet: it is of a lazy layer, so call the module on a "
            "batch first"
        )
    if t.is_meta:
        raise CurvwatchError(f"{name} of {where} is on the meta device, which keeps no values")


def check_weights(name: str, t: Tensor, where: str) -> None:
    """Raise a CurvwatchError unless `t` is made of dense, real floating-point numbers."""
    check_values(name, t, where)
    if not t.is_floating_point() or t.layout is not torch.strided:
        raise CurvwatchError(
            f"{name} of {where} is {t.dtype}, {t.layout}: dense, real floating-point numbers are needed"
        )


def checkpoint_tensors(checkpoint: Checkpoint, module: nn.Module) -> dict[str, Tensor]:
    """The tensors in `checkpoint` that `module` has.

    Args:
        checkpoint: the path of a checkpoint, a state_dict, a module, or a flat vector of all of
            `module`'s weights that require a gradient.
        module: whose names and shapes are meant.

    Raises:
        CurvwatchError: the file cannot be read, a weight that is trained is missing, or one has another
            shape.
    """
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    if isinstance(checkpoint, Tensor):
        layout = Layout.of(list(trained.values()))
        if tuple(checkpoint.shape) != (layout.size,):
            raise CurvwatchError(
                f"weights of shape {tuple(checkpoint.shape)}: a flat vector of the {layout.size} "
                "weights that require a gradient is needed"
            )
        return dict(zip(trained, layout.split(checkpoint.detach()), strict=True))
    content = checkpoint
    if isinstance(checkpoint, nn.Module):
        content = checkpoint.state_dict()
    elif isinstance(checkpoint, (str, os.PathLike)):
        content = load(Path(checkpoint))
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise CurvwatchError(
            f"checkpoint={type(checkpoint).__name__}: a path, a state_dict, a module, or a flat tensor "
            "is needed"
        )
    known = tensors_of(module)
    missing = [name for name in trained if name not in state]
    if missing:
        raise CurvwatchError(
            f"the checkpoint lacks {', '.join(missing[:3])} of the module; it has "
            f"{', '.join(list(map(str, state))[:3]) or 'nothing'}"
        )
    found = {n: t for n, t in state.items() if n in known and isinstance(t, Tensor)}
    for name, t in found.items():
        check_values(name, t, "the checkpoint")
        if t.shape != known[name].shape:
            raise CurvwatchError(
                f"{name} has the shape {tuple(t.shape)} in the checkpoint and "
                f"{tuple(known[name].shape)} in the module: it belongs to another network"
            )
    return {n: t.detach() for n, t in found.items()}


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers in `module.state_dict()`, themselves, by each of their names."""
    # a module may have extra state of any kind there
    return {n: t for n, t in module.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}


# a file of Lightning or of a state_dict, a state_dict, a module, or a flat tensor
Checkpoint: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | nn.Module | Tensor

# estimated anew, or not used
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_SHOWN = 3


def weights_of(checkpoint: Checkpoint, surface: Surface, *, prefix: str = "") -> Tensor:
    """The weights of `checkpoint` as a vector of `surface`, shape (size,).

    Args:
        checkpoint: the path of a Lightning checkpoint or of a saved state_dict, a state_dict, a module,
            or a flat vector. Files are loaded with `weights_only=True`.
        surface: whose parameters are needed.
        prefix: what the names in the checkpoint have before those of the surface, such as "net.".

    Raises:
        CurvwatchError: the file cannot be read, names or shapes do not match (the first ones are
            named), or a weight that the surface keeps fixed is another one there.
    """
    return vector_of(checkpoint, surface, prefix=prefix, evaluated=True)


def vector_of(checkpoint: Checkpoint, surface: Surface, *, prefix: str = "", evaluated: bool) -> Tensor:
    """As `weights_of`; where the loss there is not `evaluated`, other buffers do not matter."""
    if isinstance(checkpoint, Tensor):
        return checked(surface, checkpoint.detach())
    label, state = _state_of(checkpoint)
    state = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
    groups = surface.groups
    missing = [group.name for group in groups if group.name not in state]
    module = getattr(surface, "module", None)
    known = dict(module.state_dict(keep_vars=True)) if isinstance(module, nn.Module) else {}
    unknown = [n for n in state if n not in known] if known else []
    if missing or unknown:
        raise CurvwatchError(_mismatch(label, missing, unknown, state, groups))
    for group in groups:
        if isinstance(state[group.name], Tensor):
            check_weights(group.name, state[group.name], label)
    other = [
        f"{group.name} has the shape {_shape(state[group.name])} there and {group.shape} here"
        for group in groups
        if _shape(state[group.name]) != group.shape
    ]
    if other:
        raise CurvwatchError(f"{label} belongs to another network: {_first(other, '; ')}")
    _check_fixed(label, state, known, {group.name for group in groups}, evaluated)
    parts = [state[group.name].detach().reshape(-1) for group in groups]
    return torch.cat([p.to(device=surface.device, dtype=surface.dtype) for p in parts])


def _state_of(checkpoint: Any) -> tuple[str, dict[str, Any]]:
    """What errors call it, and its tensors by name."""
    if isinstance(checkpoint, nn.Module):
        return f"the {type(checkpoint).__name__}", dict(checkpoint.state_dict())
    if isinstance(checkpoint, Mapping):
        return "the checkpoint", _tensors("the checkpoint", checkpoint)
    if isinstance(checkpoint, (str, os.PathLike)):
        path = Path(checkpoint)
        return str(path), _tensors(str(path), load(path))
    raise CurvwatchError(
        f"checkpoint={type(checkpoint).__name__}: a path, a state_dict, a module, or a flat tensor is "
        "needed"
    )


def load(path: Path) -> Any:
    """The content of a checkpoint, tensors on the CPU.

    Raises:
        CurvwatchError: it cannot be read, or holds more than tensors and plain values.
    """
    if path.is_dir():
        raise CurvwatchError(
            f"{path} is a folder: a sharded checkpoint has to be merged into one file first (for "
            "Lightning: python -m lightning.pytorch.utilities.consolidate_checkpoint)"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CurvwatchError(f"there is no checkpoint {path}") from error
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "not a checkpoint"
        raise CurvwatchError(
            f"{path} cannot be loaded with weights_only=True ({reason}): if you trust it, load it "
            "yourself and give its state_dict"
        ) from error
    except Exception as error:  # what is no pickle fails in ways of any kind
        reason = f"{type(error).__name__}: {error}"
        raise CurvwatchError(f"{path} cannot be read as a checkpoint ({reason})") from error


def _tensors(label: str, content: Any) -> dict[str, Any]:
    state = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping):
        raise CurvwatchError(f"{label} holds a {type(state).__name__} and no state_dict")
    return dict(state)


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _first(names: Sequence[str], joint: str = ", ") -> str:
    more = len(names) - _SHOWN
    return joint.join(names[:_SHOWN]) + (f"{joint}and {more} more" if more > 0 else "")


def _mismatch(
    label: str,
    missing: Sequence[str],
    unknown: Sequence[str],
    state: Mapping[str, Any],
    groups: Sequence[Group],
) -> str:
    lines = []
    if missing:
        lines.append(f"it lacks {_first(missing)}")
    if unknown:
        lines.append(f"the module has no {_first(unknown)}")
    text = f"{label} does not fit: {'; '.join(lines)}"
    first = groups[0].name
    for name in state:
        prefix = name.removesuffix(first)
        if prefix and name.endswith(first) and all(prefix + group.name in state for group in groups):
            return f"{text}. The names fit with prefix={prefix!r}"
    return text


def _check_fixed(
    label: str, state: Mapping[str, Any], known: Mapping[str, Any], moved: set[str], evaluated: bool
) -> None:
    """What a surface does not move has to be the same in all checkpoints."""
    tied = {id(v) for n, v in known.items() if n in moved}
    other = [
        n
        for n, v in known.items()
        if n in state
        and id(v) not in tied
        and isinstance(v, Tensor)
        and n.rpartition(".")[2] not in _STATISTICS
        and not _same(v, state[n])
    ]
    weights = [n for n in other if isinstance(known[n], nn.Parameter)]
    if weights:
        raise CurvwatchError(
            f"{label} has other values of weights that the surface does not move, as they require no "
            f"gradient or are not in the objective: {_first(weights)}"
        )
    if other and evaluated:
        warnings.warn(
            f"{label} has other values of buffers: {_first(other)}; the surface keeps the module's",
            CurvwatchWarning,
            stacklevel=4,
        )


def _same(a: Tensor, b: Any) -> bool:
    if _shape(b) != tuple(a.shape):
        return False
    return torch.equal(a.detach().cpu(), b.detach().cpu().to(a.dtype))
