"""Whether checkpoints of a training are evenly spaced, as directions that they vary along want it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curvwatch.landscape.checkpoints import Checkpoint

# the mean over the median gap: of steps that were thinned evenly it is less, of a logarithmic grid soon
# more; distances shrink by themselves as a training comes to rest
_STEPS, _DISTANCES = 2.0, 5.0


def spacing_notes(checkpoints: Sequence[Checkpoint], points: Tensor) -> tuple[str, ...]:
    """A note where `checkpoints` are far from even, in steps where all of them say theirs.

    Args:
        checkpoints: in their order.
        points: (m, size) their weights.
    """
    steps = [_step_of(checkpoint) for checkpoint in checkpoints]
    known = [step for step in steps if step is not None]
    if len(known) == len(steps) and known == sorted(known):
        gaps, most, unit = np.diff(np.array(known, dtype=np.float64)), _STEPS, " steps apart"
    else:
        gaps, most, unit = points.double().diff(dim=0).norm(dim=1).cpu().numpy(), _DISTANCES, " apart"
    median, mean = float(np.median(gaps)), float(gaps.mean())
    if median * most >= mean:
        return ()
    return (
        "the checkpoints, of which each weighs the same, are not evenly spaced: they are "
        f"{median:.3g}{unit} in the median, {mean:.3g} in the mean",
    )


def _step_of(checkpoint: Checkpoint) -> int | None:
    """The optimizer step that a snapshot or a checkpoint of Lightning's says, if it says one."""
    content: Any = checkpoint
    if isinstance(checkpoint, (str, os.PathLike)):
        try:
            # its tensors stay on the disk
            content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        except Exception:  # an old format, which cannot be mapped
            return None
    if not isinstance(content, Mapping):
        return None
    step = content.get("step", content.get("global_step"))
    return step if type(step) is int else None
