"""One reading: every measure that is due, on one objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor

from curvwatch.charts.histogram import Histogram
from curvwatch.charts.metric_names import group_suffixes
from curvwatch.errors import CurvwatchError, ErrorPolicy
from curvwatch.measures import (
    COST_METRICS,
    Landscape,
    LandscapeMeasure,
    Measure,
    Reading,
    Step,
    StepMeasure,
)
from curvwatch.objective import Objective, OpenObjective
from curvwatch.objective.flat_layout import Layout
from curvwatch.objective.samples import RecordedBatch
from curvwatch.training.plan import ReadingPlan
from curvwatch.training.reproducibility import doubted, gradient_doubt, is_of_step, loss_doubt
from curvwatch.training.run import TrainingRun
from curvwatch.training.steps import FinishedStep, Settings

# where a measure's memory keeps why all of its readings are doubtful
_DOUBT = "doubt"


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
        seconds: spent on the landscape.
        histograms: distributions by name, with suffix.
        watched: values for alert rules alone, by name with suffix.
    """

    values: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    broken: list[tuple[str, float]] = field(default_factory=list)
    finite: list[str] = field(default_factory=list)
    doubtful: set[str] = field(default_factory=set)
    doubts: list[tuple[str, str]] = field(default_factory=list)
    products: int = 0
    seconds: float = 0.0
    histograms: dict[str, Histogram] = field(default_factory=dict)
    watched: dict[str, float] = field(default_factory=dict)

    @property
    def trusted(self) -> dict[str, float]:
        """The values that alerts may use."""
        return {name: v for name, v in self.values.items() if name not in self.doubtful}

    def add(self, reading: Reading, measure: str, suffix: str) -> None:
        """Join what one measure read for one optimizer."""

        def named(text: str) -> str:
            return f"{text} ({suffix[1:]})" if suffix else text

        self.values.update({name + suffix: float(value) for name, value in reading.values.items()})
        self.notes += [named(text) for text in (*reading.notes, *reading.doubts)]
        self.doubtful |= {name + suffix for name in reading.doubtful}
        # a step that is not repeatable is one cause, whatever was measured of it
        self.doubts += [
            ("training_step" if is_of_step(text) else measure + suffix, named(text))
            for text in reading.doubts
        ]
        self.broken += [(name + suffix, reading.values[name]) for name in reading.broken]
        self.histograms.update({name + suffix: h for name, h in reading.histograms.items()})

    def add_cost(self, seconds: float, share: float) -> None:
        """Add the price of a reading of the landscape, made in one part or several."""
        self.seconds += seconds
        costs = (float(self.products), self.seconds, share)
        self.values.update(zip(COST_METRICS, costs, strict=True))

    def check_finite(self, name: str, value: float) -> None:
        """Remember whether `value` is finite."""
        if math.isfinite(value):
            self.finite.append(name)
        else:
            self.broken.append((name, value))


class Reader:
    """Reads measures; keeps each one's memory for each optimizer.

    Args:
        errors: where failures go.
        train: False puts the module into eval mode for the landscape, None leaves it as it is.
    """

    def __init__(self, errors: ErrorPolicy, *, train: bool | None = None) -> None:
        self._errors = errors
        self._train = train
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
        run: TrainingRun,
        plan: ReadingPlan,
        probe: Sequence[RecordedBatch],
        finished: Mapping[int, FinishedStep],
        into: Readings,
        *,
        trained: float = math.nan,
        is_step: bool = False,
    ) -> None:
        """Read the landscape measures that are due, at the weights before the step.

        Args:
            run: the run.
            plan: what is due, and what was kept for it.
            probe: the batches to read on.
            finished: the steps that were taken, by optimizer index.
            into: where values go.
            trained: the loss on the probe as training had it at this step; nan where it is unknown.
            is_step: whether the probe is all that the step was made of.
        """
        trained = run.processes.mean_of([trained])[0]
        samples = [
            replace(s, batch=s.batch._replace(global_step=plan.global_step), memory=plan.module_state)
            for s in probe
        ]
        for index, (optimizer, suffix) in enumerate(zip(run.optimizers, run.suffixes, strict=True)):
            step = finished.get(index)
            settings = step.settings if step else Settings.of(optimizer)
            known = run.reports_measured_loss(index) and self._train is None
            make = partial(
                run.objective, index, settings.params, samples, train=self._train, finished=finished
            )
            with _opened(run, make, plan.weights(step)) as opened:
                for measure in plan.landscape:
                    assert isinstance(measure, LandscapeMeasure)
                    memory = self._memory.setdefault(f"{measure.name}{suffix}", {})
                    generator = run.generator()
                    with self._read(run, measure, index, into):
                        update = partial(_update, opened.layout, step) if step else None
                        at = Landscape(opened, settings.rates, settings.law, memory, generator, update)
                        reading = measure.read(at)
                        if known and math.isfinite(trained):
                            memory[_DOUBT] = loss_doubt(opened.known_loss, trained, half=run.half)
                            if is_step and step and memory[_DOUBT] is None:
                                made = _flat(opened.layout, step.gradient, settings)
                                memory[_DOUBT] = gradient_doubt(
                                    opened.layout, opened.known_gradient, made
                                )
                        # once the probe's loss was another one, so are all readings on it
                        into.add(doubted(reading, memory.get(_DOUBT)), measure.name, suffix)
            for rate, group in zip(settings.group_rates, group_suffixes(optimizer), strict=False):
                into.values[f"curvature/edge{suffix}{group}"] = 2 / rate if rate > 0 else math.nan
            into.products += opened.counts.products

    def step(
        self, run: TrainingRun, plan: ReadingPlan, finished: Mapping[int, FinishedStep], into: Readings
    ) -> None:
        """Read the step measures that are due, of the steps that were taken."""
        samples = run.weight_samples(plan.step_samples)
        trained = run.processes.mean_of([plan.trained_loss])[0]
        for index, taken in sorted(finished.items()):
            suffix, params = run.suffixes[index], taken.settings.params
            make = partial(run.objective, index, params, samples, train=None, finished=finished)
            with _opened(run, make, plan.weights(taken)) as opened:
                expected = trained if run.reports_measured_loss(index) else math.nan
                step = replace(_as_step(taken, opened), loss=expected)
                for measure in plan.step:
                    assert isinstance(measure, StepMeasure)
                    with self._read(run, measure, index, into):
                        memory = self._memory.setdefault(f"{measure.name}{suffix}", {})
                        reading = measure.read(replace(step, memory=memory))
                        doubt = loss_doubt(opened.known_loss, expected, half=run.half)
                        into.add(doubted(reading, doubt), measure.name, suffix)

    @contextmanager
    def _read(self, run: TrainingRun, measure: Measure, index: int, into: Readings) -> Iterator[None]:
        """Where a reading fails its values are missing, and the reason is noted."""
        with self._errors.guard(f"the reading of {measure.name}"):
            metrics, suffix = run.metrics_of(measure, index), run.suffixes[index]
            into.values.update({name + suffix: math.nan for name in metrics})
            try:
                yield
            except Exception as error:
                into.notes.append(f"the reading of {measure.name} failed: {error}")
                raise
            finally:
                for reason in run.unchunked_reasons:
                    self._errors.warn_once(reason)


@contextmanager
def _opened(
    run: TrainingRun, make: Callable[[], Objective], weights: Mapping[int, Tensor]
) -> Iterator[OpenObjective]:
    """Open an objective on all processes, or on none: else the others would wait for ever."""
    with ExitStack() as stack:
        failure = None
        try:
            opened = stack.enter_context(make().open(weights))
        except Exception as error:
            failure = error
        if not run.processes.true_on_all([failure is None])[0]:
            raise failure or CurvwatchError(
                "the reading failed on another process, whose warning says why"
            )
        yield opened


def _as_step(taken: FinishedStep, opened: OpenObjective) -> Step:
    layout, keys = opened.layout, [id(p) for p in taken.settings.params]
    before = layout.flatten([taken.before[k] for k in keys])
    after = layout.flatten([taken.after[k] for k in keys])
    gradient = _flat(layout, taken.gradient, taken.settings)
    length = math.sqrt(layout.dot(before, before))
    compared = {
        name: layout.flatten([step.get(k) for k in keys]) for name, step in taken.compared.items()
    }
    used = _flat(layout, taken.used, taken.settings)
    return Step(opened, after.sub_(before), length, gradient, compared=compared, used=used)


def _update(layout: Layout, taken: FinishedStep) -> Tensor:
    """D = w(t+1) - w(t), shape (size,)."""
    keys = [id(p) for p in taken.settings.params]
    after = layout.flatten([taken.after[k] for k in keys])
    return after.sub_(layout.flatten([taken.before[k] for k in keys]))


def _flat(layout: Layout, of_each: Mapping[int, Tensor], settings: Settings) -> Tensor | None:
    """The entries of the optimizer's parameters as one vector; None where there are none."""
    return layout.flatten([of_each.get(id(p)) for p in settings.params]) if of_each else None
