"""Whether a step, run again, has the loss that it had."""

from __future__ import annotations

import math
from dataclasses import replace

from curvwatch.measures import Reading

# other kernels for attention, cuDNN or not, stay under this
_SAME_LOSS = 1e-3
_SAME_LOSS_HALF = 3e-2
_OTHER_LOSS = (
    "training_step is not repeatable: run again on the same batch, with the same random numbers, its "
    "loss is {:.6g}, and it was {:.6g} in training, so the values are of another loss, and raise no "
    "alert. Perhaps it draws from a generator that the module does not hold, looks at the clock, or "
    "keeps a count outside the module"
)


def loss_doubt(again: float | None, trained: float, *, half: bool) -> str | None:
    """What to tell where the loss of the re-run is not the one of training; None where it is.

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


def doubted(reading: Reading, doubt: str | None) -> Reading:
    """`reading` with all of its values doubtful for `doubt`, which stands for finer ones."""
    if doubt is None:
        return reading
    return replace(reading, doubtful=tuple(reading.values), doubts=(doubt,))


def is_of_loss(doubt: str) -> bool:
    """Whether `doubt` is one of `loss_doubt`."""
    return doubt.startswith(_OTHER_LOSS.partition("{")[0])
