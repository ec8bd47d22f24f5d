"""The probe: the batches on which the landscape is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from curvwatch.errors import CurvwatchError
from curvwatch.objective.isolation.containers import (
    batch_size,
    clone_batch,
    map_containers,
    tensors_in,
)
from curvwatch.objective.isolation.isolate import ModuleState, isolated
from curvwatch.objective.isolation.random_state import RandomState
from curvwatch.objective.samples import RecordedBatch
from curvwatch.training.run import StepInput

ProbeKind = Literal["first", "current"]
# a checkpoint keeps the probe up to this many bytes
_LARGEST_SAVED = 64 * 2**20


class Probe:
    """Keeps batches for the whole run, each with the random numbers of its first use.

    Args:
        source: "first": the first `batches` training batches that flow by; "current": the training
            batch of each reading; else the user's own batches, as the DataLoader would give them.
        batches: how many, for "first".

    Raises:
        ValueError: `source` is an unknown word or empty, or `batches` is under 1.
    """

    def __init__(self, source: ProbeKind | Iterable[Any], *, batches: int = 1) -> None:
        if isinstance(source, str) and source not in ("first", "current"):
            raise ValueError(
                f"probe={source!r}: one of 'first', 'current', or an iterable of batches is needed"
            )
        if isinstance(batches, bool) or not isinstance(batches, int) or batches < 1:
            raise ValueError(f"probe_batches={batches!r}: at least 1 batch is needed")
        if isinstance(source, (list, tuple)) and not source:
            raise ValueError("probe is empty: give at least one batch, or probe='first'")
        if isinstance(source, (Tensor, Mapping)) or not isinstance(source, (str, Iterable)):
            raise ValueError(
                f"probe={type(source).__name__}: 'first', 'current', or an iterable of batches "
                "is needed; put a single batch into a list"
            )
        self._source = source
        self._wanted = batches
        self._kept: list[RecordedBatch] = []
        self._newest_kept = False

    def start(self, module: nn.Module, feed: Callable[[Any], Any], *, device: torch.device) -> None:
        """Take batches that a checkpoint or the user brought to the device.

        Args:
            module: what is trained.
            feed: brings one of the user's batches to where, and how, a training step has it.
            device: where batches of a checkpoint go.

        Raises:
            CurvwatchError: the user's iterable is empty.
        """
        self._kept = [
            replace(s, batch=s.batch._replace(data=move_batch(s.batch.data, device)))
            for s in self._kept
        ]
        if isinstance(self._source, str) or self._kept:
            return
        random = ModuleState.of(module).random_state()
        own = generators_of(self._source)
        states = [g.get_state() for g in own]
        with isolated(module) as isolated_module:
            isolated_module.load({})
            try:
                batches = [feed(b) for b in self._source]
            finally:
                for generator, state in zip(own, states, strict=True):
                    generator.set_state(state)
        if not batches:
            raise CurvwatchError("the probe is empty: give at least one batch, or probe='first'")
        self._kept = [RecordedBatch(StepInput(b, i), random=random) for i, b in enumerate(batches)]

    def see(
        self,
        item: StepInput,
        module: nn.Module,
        *,
        needed: bool,
        random: RandomState | None = None,
    ) -> None:
        """Let a training batch flow by, before its step.

        Args:
            item: the batch.
            module: what is trained.
            needed: whether a reading is due now.
            random: the random state of its step; None: the present one.
        """
        self._newest_kept = False
        if self._source == "current":
            self._kept = []
        if (self._source == "first" and len(self._kept) < self._wanted) or (
            self._source == "current" and needed
        ):
            copy = StepInput(clone_batch(item.data), item.batch_idx)
            random = random or ModuleState.of(module).random_state()
            self._kept.append(RecordedBatch(copy, random=random))
            self._newest_kept = True

    @property
    def is_newest(self) -> bool:
        """Whether it is the batch that was seen last, and no other."""
        return self._newest_kept and len(self._kept) == 1

    def discard_newest(self) -> None:
        """Forget the batch that was seen last, if it was kept: it makes no step."""
        if self._newest_kept:
            self._kept.pop()
            self._newest_kept = False

    @property
    def batches(self) -> int:
        """How many batches there are when it is complete; the user's own are counted by `start`."""
        if self._source == "current":
            return 1
        return self._wanted if self._source == "first" else len(self._kept)

    @property
    def complete(self) -> bool:
        """Whether all batches are there."""
        return len(self._kept) >= max(1, self.batches)

    @property
    def shortage(self) -> str | None:
        """The warning for a run that ended before all batches were there."""
        if self._source != "first" or self.complete or not self._kept:
            return None
        return (
            f"the run ended with {len(self._kept)} of {self._wanted} probe batches, so its landscape "
            "was not read; use a smaller probe_batches"
        )

    def samples(self) -> list[RecordedBatch]:
        """The batches, each weighted by its share of the examples."""
        sizes = [batch_size(s.batch.data) for s in self._kept]
        total = sum(sizes)
        return [replace(s, weight=n / total) for s, n in zip(self._kept, sizes, strict=True)]

    def state_dict(self) -> dict[str, Any] | None:
        """The batches for a checkpoint, None where they are too large or no plain containers."""
        if self._source == "current" or not self._kept:
            return None
        kept = [s.batch.data for s in self._kept]
        batches = [b.to_plain() if hasattr(b, "to_plain") else b for b in kept]
        if not all(_is_plain(b) for b in batches):
            return None
        if sum(t.numel() * t.element_size() for t in tensors_in(batches)) > _LARGEST_SAVED:
            return None
        return {
            "batches": [move_batch(b, "cpu") for b in batches],
            "batch_idx": [s.batch.batch_idx for s in self._kept],
            "random": [s.random.to_plain() if s.random else None for s in self._kept],
        }

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Go on with the batches of `state_dict()`; `start` moves them to the device."""
        if state is None:
            return
        self._kept = [
            RecordedBatch(StepInput(b, i), random=RandomState(**r) if r else None)
            for b, i, r in zip(state["batches"], state["batch_idx"], state["random"], strict=True)
        ]


def generators_of(loader: Any) -> list[torch.Generator]:
    """The generators that a DataLoader draws its order and its workers' seeds from."""
    sampler = getattr(loader, "sampler", None)
    batch_sampler = getattr(loader, "batch_sampler", None)
    inner = getattr(batch_sampler, "sampler", None)
    found = {
        id(g): g
        for place in (loader, sampler, batch_sampler, inner)
        if isinstance(g := getattr(place, "generator", None), torch.Generator)
    }
    return list(found.values())


def _is_plain(batch: Any) -> bool:
    """Whether weights-only loading of a checkpoint could read it back."""
    if type(batch) in (list, tuple):
        return all(_is_plain(b) for b in batch)
    if type(batch) is dict:
        return all(isinstance(k, (str, int)) and _is_plain(v) for k, v in batch.items())
    return type(batch) is Tensor or isinstance(batch, (int, float, str, bool, type(None)))


def move_batch(batch: Any, device: Any) -> Any:
    """`batch` with its tensors on `device`."""
    return map_containers(batch, lambda v: v.to(device) if isinstance(v, Tensor) else v)
