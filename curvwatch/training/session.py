"""What `CurvatureMonitor` and `Watch` share: from what is due at a step to where its readings go."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any, get_args

import torch

from curvwatch.checks import Mode, check_choice, check_fraction
from curvwatch.errors import ErrorPolicy, OnError
from curvwatch.measures import Measure, check_cadence, compared_by, feeding, make_measures
from curvwatch.objective import Products, check_products
from curvwatch.objective.chunk_size import check_chunk_size
from curvwatch.results.alerts import (
    Action,
    Alert,
    PresetName,
    Rule,
    check_actions,
    check_rules,
    rules_of,
)
from curvwatch.results.summary import run_summary
from curvwatch.training.plan import ReadingPlan
from curvwatch.training.probe import Probe, ProbeKind
from curvwatch.training.reader import Reader, Readings
from curvwatch.training.recorder import Recorder
from curvwatch.training.run import TrainingRun
from curvwatch.training.schedule.schedule import Schedule
from curvwatch.training.sentinels import SILENT_SHARE, WATCHED, Sentinels, silent_share
from curvwatch.training.shadow_optimizers import ShadowOptimizers
from curvwatch.training.steps import FinishedStep

log = logging.getLogger("curvwatch")

# a reading that takes so many seconds is announced
_LONG = 5.0

Steps = dict[int, FinishedStep]  # by optimizer index

_SHARDED = (
    "the weights are sharded, so Hessian-vector products are made by central differences of gradients"
)
_PROBE_LOST = (
    "the checkpoint holds no probe, because its batches are over 64 MiB or not plain dicts, lists and "
    "tensors: the landscape is read on new batches, and its curves may jump. Give your own batches by "
    "probe=[...] to avoid it"
)


class Session:
    """The probe, schedule, reader and recorder of one training, whoever drives its loop.

    Args:
        measures: what to measure: names, classes or instances of measures; None: the default ones.
        every_n_steps: read every n optimizer steps; None: as often as the budget allows; 0: only what
            `plan` is asked for.
        budget: the share of the training time that readings may take.
        probe: on what the landscape is read, see `Probe`.
        probe_batches: how many batches the probe "first" keeps.
        mode: "train" or "eval", of the module while the landscape is read.
        hvp: "exact" or "difference", see `Objective`.
        chunk_size: the most examples of a chunk of a batch; None: as many as fit.
        alerts: the preset of alert rules; None: "default", unless there are `rules`.
        rules: further rules of the user.
        on_alert: what an alert does.
        on_error: "warn" or "raise".

    Attributes:
        measures: the measures.
        errors: where failures go.
        run_options: `hvp` and `chunk_size`, as a `TrainingRun` takes them.
        last_step: the optimizer step that was seen last; -1 before the first.
        metrics: all that are read in this run, with suffixes.
        rates: the state of what alerts did to the learning rates.
        probe_lost: whether a checkpoint held no probe, so that a new one is taken.

    Raises:
        ValueError: an argument is out of range; the message says what would work.
    """

    def __init__(
        self,
        measures: Iterable[str | Measure | type[Measure]] | None,
        *,
        every_n_steps: int | None,
        budget: float,
        probe: ProbeKind | Iterable[Any],
        probe_batches: int,
        mode: Mode,
        hvp: Products,
        chunk_size: int | None,
        alerts: PresetName | None,
        rules: Iterable[Rule] | None,
        on_alert: Action | Sequence[Action] | None,
        on_error: OnError,
    ) -> None:
        if every_n_steps not in (None, 0):
            check_cadence(every_n_steps)
        check_fraction("budget", budget, what="a share of time between 0 and 1")
        check_choice("mode", mode, get_args(Mode))
        check_choice("on_error", on_error, get_args(OnError))
        check_products(hvp)
        if chunk_size is not None:
            check_chunk_size(chunk_size)
        self.measures = make_measures(measures)
        self.errors = ErrorPolicy(on_error)
        self.run_options: dict[str, Any] = {"hvp": hvp, "chunk_size": chunk_size}
        self._every_n_steps, self._budget = every_n_steps, budget
        self._probe_source, self._probe_batches = probe, probe_batches
        self._train = False if mode == "eval" else None
        self._own_rules = check_rules(rules)
        self._rules = rules_of(alerts, None if rules is None else self._own_rules)
        self._watch_finite = alerts != "off"
        self._actions = check_actions(on_alert)
        self.probe_lost = False
        self.reset()

    def reset(self) -> None:
        """Forget all readings: another training begins."""
        self.probe = Probe(self._probe_source, batches=self._probe_batches)
        self.recorder = Recorder(
            self.errors,
            rules=self._rules,
            own_rules=self._own_rules,
            watch_finite=self._watch_finite,
            actions=self._actions,
        )
        self.reader = Reader(self.errors, train=self._train)
        self.shadows = ShadowOptimizers(compared_by(self.measures), errors=self.errors)
        self.schedule = Schedule(self.measures, every_n_steps=self._every_n_steps, budget=self._budget)
        self.sentinels = Sentinels()
        self._loss: float | None = None  # of the present step
        self._said_shortfall = False
        self._announced: set[str] = set()  # stages whose readings take long
        self.metrics: list[str] = []
        self.last_step = -1
        self.rates: dict[str, Any] = {}

    def start(
        self, run: TrainingRun, *, prepare_batch: Callable[[Any], Any], device: torch.device
    ) -> None:
        """`run` begins: take the user's batches for the probe, and announce the metrics.

        Args:
            run: that begins, or is resumed.
            prepare_batch: makes of one of the user's batches what a training step gets.
            device: where the batches of a checkpoint's probe go.
        """
        self.resume(run, prepare_batch=prepare_batch, device=device)
        self.metrics = run.metric_names(self.measures, batches=self.probe.batches)
        self.recorder.start(run, self.metrics, watched=WATCHED)

    def resume(
        self, run: TrainingRun, *, prepare_batch: Callable[[Any], Any], device: torch.device
    ) -> None:
        """Bring the state of a checkpoint into `run`; arguments as of `start`."""
        if self.rates:
            run.rates.load_state_dict(self.rates)
        self.probe.start(run.module, prepare_batch, device=device)

    def warn_of_limits(self, run: TrainingRun) -> None:
        """Say what readings of `run` cannot be as one might expect."""
        if run.sharded:
            self.errors.warn_once(_SHARDED)
        if self.probe_lost:
            self.errors.warn_once(_PROBE_LOST)
            self.probe_lost = False

    def plan(self, step: int, *, also: Collection[str] = ()) -> ReadingPlan:
        """What is due at optimizer step `step`: the same on every process.

        Args:
            step: the coming one.
            also: names of measures to read beside what the cadences ask for.
        """
        due = [*self.schedule.due("landscape", step), *self.schedule.due("step", step)]
        read = [m for m in self.measures if m in due or m.name in also]
        plan = ReadingPlan(
            [m for m in read if m.stage == "landscape"], [m for m in read if m.stage == "step"]
        )
        if not self._said_shortfall and (shortfall := self.schedule.shortfall):
            self._said_shortfall = True
            log.warning("curvwatch: %s", shortfall)
        return plan

    def readable_everywhere(
        self, run: TrainingRun, plan: ReadingPlan, finished: Steps, *, ready: bool = True
    ) -> tuple[ReadingPlan, Steps]:
        """What of `plan` and of the `finished` steps every process can read.

        A reading communicates, so a process that read alone would wait for ever.
        """
        made = [ready and index in finished for index in range(len(run.optimizers))]
        here = [ready and bool(plan.landscape), ready and bool(plan.step), *made]
        everywhere = run.processes.true_on_all(here)
        if here != everywhere:
            self.errors.warn_once(
                "there is no reading at this step, because another process was not ready for it"
            )
        landscape, step, *made = everywhere
        plan = replace(
            plan, landscape=plan.landscape if landscape else [], step=plan.step if step else []
        )
        return plan, {index: finished[index] for index, is_made in enumerate(made) if is_made}

    def read(
        self,
        run: TrainingRun,
        plan: ReadingPlan,
        finished: Steps,
        readings: Readings,
        *,
        correct: Callable[[Steps], Steps] = lambda finished: finished,
        trained: float = float("nan"),
        is_step: bool = False,
    ) -> None:
        """Read what `plan` asks for, within the time that is accounted to it.

        Args:
            run: the run.
            plan: what is due, and what was kept for it.
            finished: the steps that were taken.
            readings: where values go.
            correct: corrects the stability laws of `finished`; called within the time of the reading.
            trained: the loss on the probe as training had it at this step; nan where it is unknown.
            is_step: whether the probe is all that the step was made of.
        """
        for i, group in enumerate(self.schedule.groups(plan.landscape)):
            self._announce(run, group)
            with self.schedule.timed(group) as seconds:
                if i == 0:
                    finished = correct(finished)
                with self.errors.guard("the reading of the landscape"):
                    self.reader.landscape(
                        run,
                        replace(plan, landscape=group),
                        self.probe.samples(),
                        finished,
                        readings,
                        trained=trained,
                        is_step=is_step,
                    )
            readings.add_cost(*seconds)
        if plan.step and finished:
            self._announce(run, plan.step)
            with self.schedule.timed(plan.step):
                if not plan.landscape:
                    finished = correct(finished)
                with self.errors.guard("the reading of the step"):
                    self.reader.step(run, plan, finished, readings)
                    if not run.sharded:
                        readings.watched |= _silent_shares(run, finished)

    def _announce(self, run: TrainingRun, measures: Sequence[Measure]) -> None:
        """Say once for each stage that a reading takes long, before it does."""
        stage, seconds = measures[0].stage, self.schedule.expected_seconds(measures)
        if seconds is None or seconds < _LONG or stage in self._announced or not run.is_main_process:
            return
        self._announced.add(stage)
        log.warning(
            "curvwatch: the reading of the %s at step %d will take some %.0f s, as will later ones",
            stage,
            run.step,
            seconds,
        )

    def pass_by(self, run: TrainingRun, loss: float | None, *, begin: float) -> bool:
        """Watch the loss of a step of which nothing is read; whether there is nothing else to do.

        Args:
            run: the run.
            loss: of the step; None where reading it would make the host wait.
            begin: when the monitor began with this step, by its clock.
        """
        clock = self.schedule.clock
        self.last_step = run.step
        quiet = self.see_loss(run, loss) and not run.rates.is_warming_up
        clock.add(clock.now() - begin)
        return quiet

    def see_loss(self, run: TrainingRun, loss: float | None) -> bool:
        """Watch the loss of the present step, once; whether there is nothing to record of it.

        At every step, so that it does as little as can be.
        """
        self._loss = loss
        moves = self.sentinels.see(loss, run.rate)
        return not moves and (loss is None or isfinite(loss)) and self.recorder.is_calm

    def record(self, run: TrainingRun, readings: Readings) -> list[Alert]:
        """Send `readings` to all places, once `see_loss` was called; the alerts that are set off."""
        if self._loss is not None:
            readings.check_finite("training loss", self._loss)
        watched = {**self.sentinels.values(with_reading=bool(readings.values)), **readings.watched}
        return self.recorder.record(run, run.step, readings, watched)

    def act(self, run: TrainingRun, alerts: Sequence[Alert]) -> None:
        """Do what `alerts` ask for; what pending rules wait for is read sooner from now on."""
        self.recorder.act(run, alerts)
        self.rates = run.rates.state_dict()
        wanted = feeding(self.measures, self.recorder.wanted)
        if self.sentinels.pulls:
            wanted |= {m.name for m in self.measures if m.stage == "step" and not m.expensive}
        self.schedule.prioritize(wanted)

    def finish(self, say: Callable[[str], object]) -> None:
        """The run is over: show it as a whole, and `say` in a line what became of it."""
        clock = self.schedule.clock
        self.errors.run_is_over = True
        with clock.reading():
            shortage = self.probe.shortage
            if shortage and any(m.stage == "landscape" for m in self.measures):
                self.errors.warn_once(shortage)
            self.recorder.finish(lambda: clock.share)
        with self.errors.guard("summarizing the run"):
            history = self.recorder.history
            say(run_summary(history, share=clock.share, steps=self.last_step + 1))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on as one run in one piece: tensors and plain Python."""
        with self.errors.guard("saving the state of the monitor"):
            return {
                "last_step": self.last_step,
                **self.recorder.state_dict(),
                "rates": dict(self.rates),
                **self.schedule.state_dict(),
                "sentinels": self.sentinels.state_dict(),
                "memory": self.reader.state_dict(),
                "compared": self.shadows.state_dict(),
                "probe": self.probe.state_dict(),
            }
        return {}  # a run that is resumed from this begins its readings anew

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`; an empty one is of a run without readings, and changes nothing."""
        if not state:
            return
        state = dict(state)
        self.last_step = state["last_step"]
        self.recorder.load_state_dict(state)
        self.rates = dict(state.get("rates", {}))
        self.schedule.load_state_dict(state)
        self.sentinels.load_state_dict(state.get("sentinels", {}))
        self.reader.load_state_dict(state["memory"])
        self.shadows.load_state_dict(state.get("compared", {}))
        self.probe = Probe(self._probe_source, batches=self._probe_batches)
        self.probe.load_state_dict(state["probe"])
        seen = self.last_step >= 0
        self.probe_lost = seen and state["probe"] is None and self._probe_source == "first"


def _silent_shares(run: TrainingRun, finished: Steps) -> dict[str, float]:
    """Of each optimizer whose gradient was kept."""
    return {
        SILENT_SHARE + run.suffixes[index]: silent_share((step.gradient or step.used).values())
        for index, step in finished.items()
    }
