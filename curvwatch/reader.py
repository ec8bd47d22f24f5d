"""One reading: every measure that is due, on one objective."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from curvwatch.faults import Faults
from curvwatch.measures import (
    Landscape,
    LandscapeMeasure,
    Measure,
    Reading,
    Step,
    StepMeasure,
)
from curvwatch.objective import Objective
from curvwatch.trainer.steps import FinishedStep, Settings


@dataclass
class Readings:
    """Values of one step, of all measures and optimizers.

    Attributes:
        values: metric name with suffix to value.
        notes: why values are missing or not to be trusted.
        broken: metrics that are not finite, and their values.
        finite: quantities beside `values` that were looked at and found finite.
        doubtful: metrics whose values may be wrong.
        doubts: measures with doubtful values, and why.
        products: Hessian-vector products spent.
    """

    values: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    broken: list[tuple[str, float]] = field(default_factory=list)
    finite: list[str] = field(default_factory=list)
    doubtful: set[str] = field(default_factory=set)
    doubts: list[tuple[str, str]] = field(default_factory=list)
    products: int = 0

    @property
    def trusted(self) -> dict[str, float]:
        """The values that alerts may use."""
        return {name: v for name, v in self.values.items() if name not in self.doubtful}

    def add(self, reading: Reading, measure: str, suffix: str) -> None:
        """Join what one measure read for one optimizer."""

        def named(text: str) -> str:
            return f"{text} ({suffix[1:]})" if suffix else text

        self.values.update({name + suffix: value for name, value in reading.values.items()})
        self.notes += [named(text) for text in (*reading.notes, *reading.doubts)]
        self.doubtful |= {name + suffix for name in reading.doubtful}
        self.doubts += [(measure + suffix, named(text)) for text in reading.doubts]
        self.broken += [(name + suffix, reading.values[name]) for name in reading.broken]

    def look_at(self, name: str, value: Tensor) -> None:
        """Remember whether the scalar `value` is finite."""
        if bool(torch.isfinite(value)):
            self.finite.append(name)
        else:
            self.broken.append((name, float(value)))


class Reader:
    """Reads measures; keeps each one's memory for each optimizer.

    Args:
        faults: where failures go.
    """

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._memory: dict[str, dict[str, Any]] = {}

    def state_dict(self) -> dict[str, Any]:
        """The measures' memories, for a checkpoint."""
        return {
            measure: {
                key: value.cpu() if isinstance(value, Tensor) else value
                for key, value in memory.items()
            }
            for measure, memory in self._memory.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._memory = {measure: dict(memory) for measure, memory in state.items()}

    def landscape(
        self,
        measures: Sequence[Measure],
        objective: Objective,
        settings: Settings,
        *,
        before: Mapping[int, Tensor],
        suffix: str,
        groups: Sequence[str],
        step: int,
        into: Readings,
    ) -> None:
        """Read `measures` on the probe.

        Args:
            measures: what to read.
            objective: the loss on the probe, as a function of `settings.params`.
            settings: what the optimizer makes this step with.
            before: the weights before the step.
            suffix: of the metrics of this optimizer.
            groups: suffixes of its groups.
            step: number of the step.
            into: where values go.
        """
        with objective.open(before) as opened:
            for measure in measures:
                assert isinstance(measure, LandscapeMeasure)
                memory = self._memory.setdefault(f"{measure.name}{suffix}", {})
                generator = torch.Generator().manual_seed(step)
                with self._read(measure, suffix, into):
                    at = Landscape(opened, settings.rates, settings.law, memory, generator)
                    into.add(measure.read(at), measure.name, suffix)
        for rate, group in zip(settings.group_rates, groups, strict=False):
            into.values[f"curvature/edge{suffix}{group}"] = 2 / rate if rate > 0 else math.nan
        into.products += objective.counts.products

    def step(
        self,
        measures: Sequence[Measure],
        objective: Objective,
        finished: FinishedStep,
        *,
        suffix: str,
        into: Readings,
    ) -> None:
        """Read `measures` of a finished step; `objective` is the loss of the batch that made it."""
        layout = objective.layout
        before = layout.flatten([finished.before[id(p)] for p in objective.params])
        after = layout.flatten([finished.after[id(p)] for p in objective.params])
        weight_norm = float(before.norm())
        update = after.sub_(before)
        gradient = None
        if finished.gradient:
            gradient = layout.flatten([finished.gradient.get(id(p)) for p in objective.params])
        with objective.open(finished.before) as opened:
            for measure in measures:
                assert isinstance(measure, StepMeasure)
                with self._read(measure, suffix, into):
                    reading = measure.read(Step(opened, update, weight_norm, gradient))
                    into.add(reading, measure.name, suffix)

    @contextmanager
    def _read(self, measure: Measure, suffix: str, into: Readings) -> Iterator[None]:
        """Where a reading fails its values are missing, and the reason is noted."""
        with self._faults.caught(f"the reading of {measure.name}"):
            into.values.update({name + suffix: math.nan for name in measure.metrics})
            try:
                yield
            except Exception as error:
                into.notes.append(f"the reading of {measure.name} failed: {error}")
                raise
