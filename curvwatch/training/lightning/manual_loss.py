"""The loss of one optimizer in manual optimization, inferred from its calls of backward()."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim import Optimizer

from curvwatch.errors import CurvwatchError
from curvwatch.objective.isolation.containers import clone_batch
from curvwatch.objective.isolation.isolate import IsolatedModule, isolated
from curvwatch.training.lightning.backward_recorder import GIVE_ONE, BackwardRecorder, StepReached
from curvwatch.training.lightning.training_step import TrainingStepLoss, steps_taken
from curvwatch.training.run import StepInput
from curvwatch.training.steps import FinishedStep

if TYPE_CHECKING:
    import lightning.pytorch as pl

# an optimizer that is trained now and then has its turn within so many batches
_FARTHEST_TURN = 20
# a step is made of no more batches than this
_LARGEST_GROUP = 100


class StepBatch(StepInput):
    """A batch of a step that was made: its loss was sent backward at its own `batch_idx`."""


@dataclass
class ManualStepFacts:
    """What a run has shown of how one optimizer is trained.

    Attributes:
        batches: of how many batches a step is made; None: not counted yet.
        backward: whether `training_step` reads gradients between backward and step.
        ahead: from the `batch_idx` of a batch to how many batches later the optimizer has its turn.
        hopeless: it had no turn within reach.
    """

    batches: int | None = None
    backward: bool = False
    ahead: dict[int, int] = field(default_factory=dict)
    hopeless: bool = False


class ManualOptimizationLoss(TrainingStepLoss):
    """The sum of the losses that are sent backward until the optimizer's first step in a batch.

    `training_step` is run again; backward passes, steps and schedulers are recorded and not run. The
    weights of the other optimizers go with the batch as they did in training: as they were at its
    beginning until that optimizer's step is reached, from there on as they were at this one's.

    Args:
        trainer: in the midst of `fit`.
        module: whose `training_step` is run.
        optimizers: all that are read.
        index: which of them.
        name: of it, for messages.
        knowledge: of it, kept for the run.
        batch_idx: of the present batch.
        finished: the steps that were made in the present batch, by optimizer index.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        *,
        optimizers: Sequence[Optimizer],
        index: int,
        name: str,
        knowledge: ManualStepFacts,
        batch_idx: int,
        finished: Mapping[int, FinishedStep],
    ) -> None:
        super().__init__(trainer, module)
        self._optimizer = optimizers[index]
        self._name = name
        self._known = knowledge
        self._made_step = index in finished
        self._batch_idx = batch_idx
        self._own = [p for group in self._optimizer.param_groups for p in group["params"]]
        self._earlier_steps = _earlier_steps(optimizers, index, finished)

    def __call__(self, item: StepInput) -> Tensor:
        """The loss; of a batch of the probe times the number of batches that make a step.

        Raises:
            CurvwatchError: it cannot be inferred; the message says why.
        """
        if isinstance(item, StepBatch):
            loss = self._inferred(item)
            if loss is None:
                raise self._not_inferred()
            return loss
        for ahead, at in self._turns(item):
            loss = self._inferred(at)
            if loss is not None:
                self._known.ahead[item.batch_idx] = ahead
                if self._known.batches is None:
                    self._known.batches = self._batches_of_a_step(at)
                return loss * self._known.batches
        self._known.hopeless = True
        raise self._not_inferred()

    def _turns(self, item: StepInput) -> Iterator[tuple[int, StepInput]]:
        """Where the optimizer may have its turn: how many batches ahead, and the batch there."""
        first = self._known.ahead.get(item.batch_idx, 0)
        yield first, _later(item, first)
        if self._made_step:
            yield self._batch_idx - item.batch_idx, item._replace(batch_idx=self._batch_idx)
        if not self._known.hopeless:
            yield from ((ahead, _later(item, ahead)) for ahead in range(_FARTHEST_TURN))

    def _inferred(self, item: StepInput) -> Tensor | None:
        """The loss that is passed to backward() when `training_step` is called with `item`."""
        recorder = None
        try:
            with self._isolated_again() as inner:
                inner.load({id(w): w for w in inner.weights})
                recorder = self._recorder(until_step=True)
                with suppress(StepReached):
                    self._record(item, recorder)
            return recorder.loss
        except CurvwatchError:
            raise
        except Exception as error:
            if recorder is None or not recorder.any:
                raise
            if self._known.backward:
                raise CurvwatchError(
                    f"training_step cannot be run again to infer the loss of {self._name} "
                    f"({type(error).__name__}: {error}): {GIVE_ONE}"
                ) from error
        # perhaps it reads gradients
        self._known.backward = True
        return self._inferred(item)

    def _batches_of_a_step(self, item: StepInput) -> int:
        """How many batches send losses backward between two steps; 1 where that does not show."""
        counts, count = [], 0
        with suppress(Exception), self._isolated_again() as inner:
            inner.load({id(w): w.detach().clone().requires_grad_() for w in inner.weights})
            for ahead in range(_LARGEST_GROUP):
                recorder = self._recorder(until_step=False)
                self._record(_later(item, ahead), recorder)
                count = (0 if recorder.cleared else count) + (recorder.loss is not None)
                if recorder.reached:
                    counts.append(count)
                    count = 0
                if len(counts) == 2:
                    break
        return max(1, counts[-1]) if counts else 1

    @contextmanager
    def _isolated_again(self) -> Iterator[IsolatedModule]:
        """Isolate the module once more, for one run: the next starts from the same state."""
        with isolated(self._module) as inner:
            flags = [(w, w.requires_grad, w.grad) for w in inner.weights]
            try:
                yield inner
            finally:
                for weight, flag, gradient in flags:
                    weight.requires_grad_(flag)
                    weight.grad = gradient

    def _recorder(self, *, until_step: bool) -> BackwardRecorder:
        for start in self._earlier_steps.values():
            for weight, before, _ in start:
                self._isolated.places.put(weight, before)
        if self._known.backward:
            self._require_gradients()
        return BackwardRecorder(
            self._optimizer,
            self._isolated,
            until_step=until_step,
            backward=self._known.backward,
            stepped=self._follow,
        )

    def _record(self, item: StepInput, recorder: BackwardRecorder) -> None:
        progress = steps_taken(self._trainer, self._module)

        def step(optimizer: Optimizer, closure: Any, counted: bool) -> Any:
            output = recorder.step(optimizer, closure, counted)
            progress.completed += counted  # put back with the silence
            return output

        item = item._replace(data=clone_batch(item.data))
        with (
            self._silent(item, on_step=step, on_clear=recorder.clear),
            recorder.recording(self._trainer, self._module),
        ):
            self._training_step(item)

    def _follow(self, optimizer: Optimizer) -> None:
        """Another optimizer has made its step."""
        if id(optimizer) in self._earlier_steps:
            for weight, _, after in self._earlier_steps[id(optimizer)]:
                self._isolated.places.put(weight, after)
            self._isolated.refresh(optimizer)

    def _require_gradients(self) -> None:
        for optimizer in self._trainer.optimizers:
            for group in optimizer.param_groups:
                for weight in group["params"]:
                    present = self._isolated.places.now(weight)
                    if present is not None and present.is_leaf:
                        present.requires_grad_(weight.requires_grad)

    def _not_inferred(self) -> CurvwatchError:
        return CurvwatchError(
            f"the loss of {self._name} cannot be inferred: training_step passed no loss of its weights "
            f"to backward() before its step: {GIVE_ONE}"
        )


def _later(item: StepInput, ahead: int) -> StepInput:
    step = item.global_step
    return item._replace(
        batch_idx=item.batch_idx + ahead, global_step=None if step is None else step + ahead
    )


def _earlier_steps(
    optimizers: Sequence[Optimizer], index: int, finished: Mapping[int, FinishedStep]
) -> dict[int, list[tuple[Tensor, Tensor, Tensor]]]:
    """By the `id` of each optimizer that was faster: its weights, before its step and at this one's."""
    if index not in finished:
        return {}
    now = finished[index].before
    own = {id(p) for group in optimizers[index].param_groups for p in group["params"]}
    steps: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for other, step in finished.items():
        weights = [p for group in optimizers[other].param_groups for p in group["params"]]
        pairs = [(p, step.before[id(p)], now[id(p)]) for p in weights if id(p) not in own]
        if any(not before.equal(after) for _, before, after in pairs):
            steps[id(optimizers[other])] = pairs
    return steps
