"""What is due at one step."""

from __future__ import annotations

from dataclasses import dataclass, field

from curvwatch.isolation import Memory
from curvwatch.measures import Measure
from curvwatch.objective import Sample
from curvwatch.trainer.rerun import TrainingBatch
from curvwatch.trainer.run import FitRun
from curvwatch.trees import clone_batch


@dataclass
class Due:
    """What is due at one step, and what is kept for it from the step's beginning.

    Attributes:
        landscape: measures to read on the probe.
        step: measures to read of the step.
        memory: buffers and attributes of the module at w(t).
        samples: the batches of the step.
        global_step: Lightning's, at w(t).
    """

    landscape: list[Measure] = field(default_factory=list)
    step: list[Measure] = field(default_factory=list)
    memory: Memory | None = None
    samples: list[Sample] = field(default_factory=list)
    global_step: int | None = None

    def __bool__(self) -> bool:
        return bool(self.landscape or self.step)

    def keep(self, run: FitRun, item: TrainingBatch) -> None:
        """Keep a batch of the step, and all that its loss depends on."""
        memory = Memory.of(run.module)
        copied = memory.copied() if self.samples or self.memory is None else self.memory
        self.samples.append(
            Sample(
                item._replace(batch=clone_batch(item.batch)),
                weight=run.batch_weight,
                random=memory.random_state(),
                memory=copied,
            )
        )
