"""How large the parts are in which a batch is differentiated twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from curvwatch.errors import CurvwatchError
from curvwatch.objective.isolation.containers import tensors_in
from curvwatch.objective.memory import peak_of_process
from curvwatch.objective.samples import RecordedBatch

# a reading may take 1.3 times the memory of a training step; the rest is for vectors
_SHARE = 0.2
# kernels on the CPU have memory of their own, which no tensor reports: measured with convolutions
_SCRATCH_OF_CPU = 2.0
# a reading has some 20 vectors of the weights' size: beside them so many more do not matter, while
# parts cost a gradient in each product
_BESIDE_VECTORS = 3.0
# a batch that is so much larger than the one that was measured is measured again
_LARGER = 1.25
# rounding stays under these, in single and in half precision; batch statistics do not
_SAME = 1e-4
_SAME_HALF = 2e-2
_HELPS = "probe=[...] with smaller batches needs less"


@dataclass
class ChunkSize:
    """How many examples at a time the graphs of one loss function hold, over many readings.

    A loss that is a mean over examples is the weighted sum of the losses of parts of its batch, and so
    are its derivatives, at the memory of one part. Whether it is, is checked where parts are used.

    Args:
        size: the most examples of a part; None: found out by a measurement.

    Attributes:
        refused: why batches stay whole; None where they need not, or were not looked at.
        draws: whether the loss draws random numbers.

    Raises:
        ValueError: `size` is no positive number.
    """

    size: int | None = None
    refused: str | None = None
    draws: bool = False
    _automatic: bool = False
    _measured: int = 0

    def __post_init__(self) -> None:
        if self.size is not None:
            check_chunk_size(self.size)
        self._automatic = self.size is None

    def needs_measurement(self, samples: Sequence[RecordedBatch]) -> bool:
        """Whether the size is to be found, and is not known for batches as large as these."""
        largest = max(_elements(s) for s in samples)
        return self._automatic and (self.size is None or largest > _LARGER * self._measured)

    def refuse(self, reason: str) -> None:
        """Leave batches whole from now on."""
        self.refused = (
            f"a batch cannot be split into chunks ({reason}), so a reading takes the memory of "
            f"several training steps; {_HELPS}"
        )

    def choose(
        self,
        samples: Sequence[RecordedBatch],
        *,
        step: int,
        graph: Callable[[int], int],
        weights: int,
        device: torch.device,
    ) -> None:
        """Find the largest parts that keep a reading in the memory of a training step.

        Args:
            samples: the batches.
            step: bytes that a gradient of the largest of them takes.
            graph: from a number of examples to the bytes of a Hessian-vector product on them.
            weights: bytes of a vector of their size.
            device: of the weights.
        """
        self._measured = max(_elements(s) for s in samples)
        total = max(s.size for s in samples)
        self.size = total
        if total < 2:
            return
        allowed = step + _SHARE * peak_of_process(device)
        # of one example some layers have no statistics
        few = max(2, total // 16) if total >= 4 else 1
        more = min(total, 2 * few)
        scratch = _SCRATCH_OF_CPU if device.type == "cpu" else 1.0
        low, high = graph(few), graph(more)
        # vectors of the weights' size are among both, and are no matter of examples
        each = max(1.0, scratch * (high - low) / (more - few)) if more > few else scratch * high
        rest = max(0.0, low - each / scratch * few)
        room = max(allowed - rest, _SHARE * step, _BESIDE_VECTORS * weights)
        if each * total > room:
            self.size = max(1, int(room / each))


def coupling(module: nn.Module, *, train: bool | None) -> str | None:
    """What in `module` makes the loss of an example depend on the others; None where nothing does."""
    for m in module.modules():
        if isinstance(m, _BatchNorm):
            training = m.training if train is None else train
            if training or m.running_mean is None:
                return f"{type(m).__name__} takes its statistics from the batch"
    return None


def chunk_mismatch(
    parts: Tensor, whole: Tensor, *, scale: tuple[float, float], half: bool
) -> str | None:
    """In what loss and gradient of the parts, joined as one vector, differ from those of the whole.

    Args:
        parts: the sum of the parts, (size + 1,): gradient, then loss.
        whole: the same of whole batches.
        scale: sums of the sizes of the parts' gradients and losses: what rounding is relative to.
        half: whether parts of the computation are in half precision.
    """
    rtol = _SAME_HALF if half else _SAME
    off = parts - whole
    if not abs(float(off[-1])) <= rtol * scale[1]:
        return (
            f"the mean loss of the chunks is {float(parts[-1]):.6g}, that of the whole batch "
            f"{float(whole[-1]):.6g}: the loss is no mean over examples, or they depend on one another"
        )
    distance = float(off[:-1].norm())
    if not distance <= rtol * scale[0]:
        share = distance / max(float(whole[:-1].norm()), 1e-30)
        return f"the mean gradient of the chunks is off by {share:.1%}: examples depend on one another"
    return None


def check_chunk_size(chunk_size: object) -> None:
    """Raise a ValueError unless `chunk_size` is a positive whole number."""
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(
            f"chunk_size={chunk_size!r}: a positive number of examples, or None, is needed"
        )


def cannot_be_cut(error: Exception) -> str:
    """A reason to refuse, from an `error` on a part of a batch."""
    if isinstance(error, CurvwatchError):
        return str(error)
    return f"on a chunk: {type(error).__name__}: {error}"


def _elements(sample: RecordedBatch) -> int:
    return sum(t.numel() for t in tensors_in(sample.batch))
