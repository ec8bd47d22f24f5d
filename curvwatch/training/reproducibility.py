"""Whether a step, run again, has the loss that it had."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from curvwatch.measures import Reading
from curvwatch.objective.flat_layout import Layout

# other kernels for attention, cuDNN or not, stay under this
_SAME_LOSS = 1e-3
_SAME_LOSS_HALF = 3e-2
_SAME_GRADIENT = 0.05
_NOT_REPEATABLE = "training_step is not repeatable: "
_OTHER_LOSS = _NOT_REPEATABLE + (
    "run again on the same batch, with the same random numbers, its "
    "loss is {:.6g}, and it was {:.6g} in training, so the values describe another loss and raise no "
    "alert. Perhaps it uses a random generator or a counter that is stored outside the module, reads "
    "the clock, or checks whether a weight is an nn.Parameter"
)
_OTHER_GRADIENT = _NOT_REPEATABLE + (
    "run again on the batch of the probe, its gradient differs by {:.0%} from the one that made the "
    "step, so the values on the probe may describe another function and raise no alert. Perhaps a part "
    "of the graph is made before training_step, a weight is used that is not the module's attribute, "
    "or a hook changes the gradient (on_after_backward)"
)


def loss_doubt(again: float | None, trained: float, *, half: bool) -> str | None:
    """The message where the loss of the re-run is not the one of training; None where it is.

    Args:
        again: the loss of the re-run, None where none was computed.
        trained: the loss of training; nan where it is unknown.
        half: whether training computes in half precision.
    """
    if again is None or not math.isfinite(trained) or not math.isfinite(again):
        return None
    rtol = _SAME_LOSS_HALF if half else _SAME_LOSS
    if math.isclose(again, trained, rel_tol=rtol, abs_tol=1e-7):
        return None
    return _OTHER_LOSS.format(again, trained)


def gradient_doubt(layout: Layout, again: Tensor | None, trained: Tensor | None) -> str | None:
    """The message where the gradient of the re-run has another direction than that of training."""
    if again is None or trained is None:
        return None
    across, _ = layout.deviation(again, trained)
    return _OTHER_GRADIENT.format(across) if across > _SAME_GRADIENT else None


def doubted(reading: Reading, doubt: str | None) -> Reading:
    """`reading` with all of its values doubtful for `doubt`, which stands for finer ones."""
    if doubt is None:
        return reading
    return replace(reading, doubtful=tuple(reading.values), doubts=(doubt,))


def is_of_step(doubt: str) -> bool:
    """Whether `doubt` says that the step is not repeatable."""
    return doubt.startswith(_NOT_REPEATABLE)
