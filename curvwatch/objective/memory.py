"""How much memory a computation takes, counted in tensors, and how much the process has."""

from __future__ import annotations

import ctypes
import math
import sys
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Footprint(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make while it is entered.

    It sees what an allocator's peak shows, on any device and whatever else the process does: the
    outputs of each operation of forward and backward passes, from when they are made until they are
    freed; not the scratch memory inside of a kernel.

    Attributes:
        peak: the most bytes alive at one time.

    Example:
        >>> with Footprint() as footprint:
        ...     _ = torch.zeros(256) + torch.zeros(256)
        >>> footprint.peak
        3072
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive = 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func`, and look at the storages of its outputs."""
        inputs = {_key(t) for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)}
        outputs = func(*args, **(kwargs or {}))
        for t in tree_leaves(outputs):
            if isinstance(t, Tensor) and _key(t) not in inputs:  # views and writes make nothing new
                self._see(t.untyped_storage())
        return outputs

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return

        def freed(_: object) -> None:
            self._alive -= size
            self._seen.pop(key, None)

        self._seen[key] = weakref.ref(storage, freed)
        self._alive += size
        self.peak = max(self.peak, self._alive)


class _MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc 2.33 and later."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


# to give back less takes longer, as it is asked for again at once, than it is worth
_LITTLE = 64 * 1024**2


def release_free_memory() -> None:
    """Give memory that is free back to the system, where the C library (glibc) keeps much of it.

    It keeps the activations of training, cut up, so that the larger ones of a reading would be laid
    beside them.
    """
    trim = getattr(_c_library(), "malloc_trim", None)
    if trim is not None and _kept_free() > _LITTLE:
        trim(0)


def _kept_free() -> float:
    """How many bytes the C library keeps that are in no use; inf where it does not tell."""
    info = getattr(_c_library(), "mallinfo2", None)
    if info is None:
        return math.inf
    info.restype = _MallocInfo
    return int(info().fordblks)


@cache
def _c_library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(None) if sys.platform == "linux" else None
    except OSError:
        return None


def _key(t: Tensor) -> int:
    return int(t.untyped_storage()._cdata)


def peak_of_process(device: torch.device) -> int:
    """The most bytes that the process has had: of the CUDA allocator, else as resident memory.

    0 where the system does not report it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # the other number begins, in a child, at its parent's
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit
