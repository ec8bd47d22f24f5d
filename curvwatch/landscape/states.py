"""All tensors of a checkpoint by name, as a module knows them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from curvwatch.errors import CurvwatchError
from curvwatch.landscape.checkpoints import Checkpoint, load
from curvwatch.landscape.checks import check_values
from curvwatch.objective.flat_layout import Layout


def state_of(checkpoint: Checkpoint, module: nn.Module) -> dict[str, Tensor]:
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
                f"{tuple(known[name].shape)} in the module: it is of another network"
            )
    return {n: t.detach() for n, t in found.items()}


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers in `module.state_dict()`, themselves, by each of their names."""
    # a module may have extra state of any kind there
    return {n: t for n, t in module.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
