"""`training_step(dataloader_iter)`: the batches that a step fetches, kept to be fetched again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from curvwatch.errors import CurvwatchError
from curvwatch.objective.isolation.containers import clone_batch, map_containers
from curvwatch.objective.isolation.isolate import ModuleState
from curvwatch.objective.isolation.random_state import RandomState

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from torch import nn


class Fetch(NamedTuple):
    """What `next(dataloader_iter)` gave, and the random state after it; None: the one before."""

    batch: Any
    batch_idx: int
    dataloader_idx: int
    random: RandomState | None


class Fetched(list[Fetch]):
    """What one step fetched.

    While it is live, that is until the step is over, its copies are itself: they are kept before there
    is something to copy.

    Attributes:
        live: whether the step goes on.
        kept: whether somebody made a copy, so that fetches are to be recorded.
        exhausted: whether the last try found no batch.
        failure: why a batch could not be copied.
    """

    def __init__(self, fetches: Any = ()) -> None:
        super().__init__(fetches)
        self.live = False
        self.kept = False
        self.exhausted = False
        self.failure: Exception | None = None

    def __copy__(self) -> Fetched:
        if self.live:
            self.kept = True
            return self
        copy = Fetched(self)
        vars(copy).update(vars(self))
        return copy

    def to_plain(self) -> list[Any]:
        """As lists, dicts and tensors for a checkpoint, where the batches are such themselves."""
        return [
            [f.batch, f.batch_idx, f.dataloader_idx, f.random.to_plain() if f.random else None]
            for f in self
        ]


class FetchRecorder:
    """Records what `training_step` fetches.

    Args:
        trainer: in the midst of `fit`.
        module: the LightningModule.
    """

    def __init__(self, trainer: pl.Trainer, module: nn.Module) -> None:
        self._trainer = trainer
        self._module = module
        self._recorded: Fetched | None = None
        self._swapped: tuple[Any, type] | None = None

    def expect(self) -> Fetched:
        """A live record for the coming step."""
        self.end()
        self._recorded = Fetched()
        self._recorded.live = True
        return self._recorded

    def begin(self) -> None:
        """Record from now on, if the record that is expected was kept."""
        record = self._recorded
        if record is None or not record.kept:
            return
        # private (2.2 to 2.6): the object that training_step gets
        wrapper: Any = self._trainer.fit_loop._data_fetcher.iterator_wrapper  # type: ignore[union-attr]
        original: Any = type(wrapper)
        module = self._module

        def fetch(iterator: Any) -> Any:
            try:
                fetched = original.__next__(iterator)
            except StopIteration:
                record.exhausted = True
                raise
            batch, batch_idx, dataloader_idx = fetched
            try:
                random = ModuleState.of(module).random_state()
                record.append(Fetch(clone_batch(batch), batch_idx, dataloader_idx, random))
            except Exception as error:  # raised when the record is used: training goes on
                record.failure = error
            return fetched

        self._swapped = (wrapper, original)
        # of the class of either namespace; `next` uses the class alone
        wrapper.__class__ = type(original.__name__, (original,), {"__next__": fetch})

    def end(self) -> None:
        """The step is over."""
        if self._swapped is not None:
            wrapper, original = self._swapped
            wrapper.__class__ = original
            self._swapped = None
        if self._recorded is not None:
            self._recorded.live = False
            self._recorded = None


class ReplayIterator(Iterator[Any]):
    """In place of Lightning's iterator: gives what was fetched, and the random state after it.

    Args:
        record: of the step, or what `to_plain` made of it.
        module: whose generators are set.
        original: Lightning's iterator, for its other attributes.
    """

    def __init__(self, record: list[Any], module: nn.Module, original: Any) -> None:
        failure = getattr(record, "failure", None)
        if failure is not None:
            raise CurvwatchError(
                f"a batch could not be copied: {type(failure).__name__}: {failure}"
            ) from failure
        self._fetches = iter([_as_fetch(*fetch) for fetch in record])
        self._exhausted = getattr(record, "exhausted", False)
        self._module = module
        self._original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def __next__(self) -> Any:
        fetch = next(self._fetches, None)
        if fetch is None:
            if self._exhausted:
                raise StopIteration
            raise CurvwatchError(
                "training_step fetches more batches from dataloader_iter than when this step was "
                "recorded, or than an element of probe=[...] holds: there are no more"
            )
        if fetch.random is not None:
            fetch.random.set(ModuleState.of(self._module).generators)
        return fetch.batch, fetch.batch_idx, fetch.dataloader_idx


def _as_fetch(batch: Any, batch_idx: int, dataloader_idx: int, random: Any) -> Fetch:
    if isinstance(random, dict):  # it came with the batch to the device
        plain = map_containers(random, lambda v: v.cpu() if isinstance(v, Tensor) else v)
        random = RandomState(**plain)
    return Fetch(batch, batch_idx, dataloader_idx, random)
