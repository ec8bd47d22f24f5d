"""CurvatureMonitor: when to read, in which order, and where readings go."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from curvwatch.checks import Mode, check_choice, check_fraction
from curvwatch.errors import ErrorPolicy, OnError
from curvwatch.measures import Measure, check_cadence, compared_by, feeding, make_measures
from curvwatch.measures.presets import preset_options
from curvwatch.objective import Products, check_products
from curvwatch.objective.chunk_size import check_chunk_size
from curvwatch.results import History
from curvwatch.results.advice import Advices, advise
from curvwatch.results.alerts import (
    Action,
    Alert,
    PresetName,
    Rule,
    check_actions,
    check_rules,
    rules_of,
)
from curvwatch.training.lightning.callback import CallbackBase
from curvwatch.training.lightning.run import LightningRun
from curvwatch.training.lightning.training_step import LossFn, check_loss_fns
from curvwatch.training.plan import ReadingPlan
from curvwatch.training.probe import Probe, ProbeKind
from curvwatch.training.reader import Reader, Readings
from curvwatch.training.recorder import Recorder
from curvwatch.training.schedule.schedule import Schedule
from curvwatch.training.shadow_optimizers import ShadowOptimizers
from curvwatch.training.steps import FinishedStep, StepWatch

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from torch import Tensor


class CurvatureMonitor(CallbackBase):
    """Logs how sharp the loss is, how near the edge of stability, and what each step does.

    Args:
        measures: what to measure: names, classes or instances of measures; default: `Sharpness` and
            `StepGeometry`.
        every_n_steps: read every n optimizer steps; None: as often as the budget allows.
        budget: the share of the training time that readings may take, where `every_n_steps` is None.
        probe: on what the landscape is read: "first", the first training batches that flow by, kept
            for the whole run; "current", the training batch of each reading; or batches of your own.
        probe_batches: how many batches "first" keeps.
        mode: "train" measures the loss as it is trained (dropout and batch statistics on, with fixed
            random numbers); "eval" puts the module into eval mode for the landscape.
        loss_fn: `loss_fn(module, batch)` returns the loss to measure instead of `training_step`'s;
            needed where the losses of manual optimization cannot be told. A list has one for each
            optimizer.
        hvp: "exact": Hessian-vector products by automatic differentiation; "difference": by central
            differences of gradients, for losses without a second derivative in torch (CTC,
            EmbeddingBag). Sharded weights (FSDP2) are always measured so.
        chunk_size: Hessian-vector products, which take several times the memory of a training step,
            are made for so many examples at a time; None: for as many as a measurement at the
            first reading shows to fit. Where the loss is no mean over examples (batch normalisation,
            contrastive losses, sums, means over tokens) batches stay whole, and a warning says so.
        alerts: what to alert on: "default", "research" (also the edge reached and left) or "off", see
            `docs/alerts.md`; None: "default", unless there are `rules`. Values that are not finite
            are alerted on unless it is "off".
        rules: rules of your own, over metrics of curvwatch or of the module. They join those of
            `alerts`; one takes the place of the preset's that has its name.
        on_alert: what an alert does beside its message in the log and the loggers: a function of the
            `Alert`; "warn", a Python warning; "stop" ends the run; "checkpoint" saves one, named after
            the alert; `lower_lr(factor)` and `warmup_again(steps)` change the learning rate;
            `webhook(url)` sends it away; a list does several things.
        on_error: "warn" reports a failed reading, once for each cause, and training goes on; "raise"
            raises.
        name: tells several monitors of one Trainer apart, in checkpoints.

    Raises:
        ValueError: an argument is out of range; the message says what would work.

    Example:
        >>> import lightning as L
        >>> trainer = L.Trainer(callbacks=[CurvatureMonitor()], logger=False)
    """

    def __init__(
        self,
        measures: Iterable[str | Measure | type[Measure]] | None = None,
        *,
        every_n_steps: int | None = None,
        budget: float = 0.05,
        probe: ProbeKind | Iterable[Any] = "first",
        probe_batches: int = 1,
        mode: Mode = "train",
        loss_fn: LossFn | Sequence[LossFn] | None = None,
        hvp: Products = "exact",
        chunk_size: int | None = None,
        alerts: PresetName | None = None,
        rules: Iterable[Rule] | None = None,
        on_alert: Action | Sequence[Action] | None = None,
        on_error: OnError = "warn",
        name: str = "",
    ) -> None:
        super().__init__()
        if every_n_steps is not None:
            check_cadence(every_n_steps)
        check_fraction("budget", budget, what="a share of time between 0 and 1")
        check_choice("mode", mode, get_args(Mode))
        check_choice("on_error", on_error, get_args(OnError))
        check_products(hvp)
        if chunk_size is not None:
            check_chunk_size(chunk_size)
        self.measures = make_measures(measures)
        self.every_n_steps = every_n_steps
        self.budget = budget
        self.name = name
        self._probe_source, self._probe_batches = probe, probe_batches
        self._train = False if mode == "eval" else None
        self._hvp: Products = hvp
        self._chunk_size = chunk_size
        self._loss_fn = check_loss_fns(loss_fn)
        self._own_rules = check_rules(rules)
        self._rules = rules_of(alerts, None if rules is None else self._own_rules)
        self._watch_finite = alerts != "off"
        self._actions = check_actions(on_alert)
        self._faults = ErrorPolicy(on_error)
        self._run: LightningRun | None = None
        self._backwards = 0
        self._resumed = False
        self._probe_lost = False
        self._reset()

    @classmethod
    def preset(
        cls,
        which: str,
        *,
        measures: Iterable[str | Measure | type[Measure]] | None = None,
        budget: float | None = None,
        probe_batches: int | None = None,
        **options: Any,
    ) -> CurvatureMonitor:
        """A monitor with a set of measures; in a LightningCLI `curvwatch.CurvatureMonitor.preset`.

        Args:
            which: "watch", the default measures; "study", what the study of a run needs, for 20 % of
                its time; "everything", all measures, for half of it. `curvwatch measures` lists their
                measures and prices.
            measures: others than the preset's.
            budget: another than the preset's.
            probe_batches: another number than the preset's.
            **options: further arguments of `CurvatureMonitor`. With `every_n_steps` all measures of the
                preset are read at that cadence, whatever it costs.

        Raises:
            ValueError: there is no such preset, or an option is out of range.
        """
        chosen = preset_options(which, measures=measures, budget=budget, probe_batches=probe_batches)
        options = {**chosen, **options}
        if cls is not CurvatureMonitor:
            return cls(**options)
        return CurvatureMonitor(**options)  # by this name jsonargparse learns what the options are

    def _reset(self) -> None:
        self._probe = Probe(self._probe_source, batches=self._probe_batches)
        self._recorder = Recorder(
            self._faults,
            rules=self._rules,
            own_rules=self._own_rules,
            watch_finite=self._watch_finite,
            actions=self._actions,
        )
        self._reader = Reader(self._faults, train=self._train)
        self._following = ShadowOptimizers(compared_by(self.measures), faults=self._faults)
        self._schedule = Schedule(self.measures, every_n_steps=self.every_n_steps, budget=self.budget)
        self._last_step = -1
        self._rates: dict[str, Any] = {}  # state of what alerts did to the learning rates

    @property
    def history(self) -> History:
        """All readings of the run."""
        return self._recorder.history

    @property
    def alerts(self) -> list[Alert]:
        """All alerts of the run, in order."""
        return self._recorder.alerts

    def advice(self) -> Advices:
        """What the readings so far say about the learning rate of each optimizer and group.

        The largest constant learning rate that the measured landscape supports, when to warm up to it
        if at all, the evidence and the uncertainty; `print` shows it in words. Where the readings do
        not allow advice it says why. docs/advice.md has what is advised, and how runs took it.
        """
        return advise(self.history)

    @property
    def state_key(self) -> str:
        """Tells the states of several monitors apart in a checkpoint."""
        return self._generate_state_key(name=self.name)

    # the hooks, in the order of a run

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the run; where it cannot be measured, say why and stand aside."""
        self._leave()
        self._faults.reset()
        with self._faults.guard("setting up for this run"):
            run = self._new_run(trainer, pl_module)
            if not self._resumed and run.step <= self._last_step:
                self._reset()  # another run, from its beginning
            if self._rates:
                run.rates.load_state_dict(self._rates)
            self._resumed = False
            self._probe.start(pl_module, run.prepare_batch, device=pl_module.device)
            self._recorder.start(run, run.metric_names(self.measures, batches=self._probe.batches))
            self._watch = self._new_watch(run)
            self._pending = ReadingPlan()
            self._owed: list[Measure] = []
            self._probe_loss = math.nan
            self._before_step = run.call_before_step(self._get_ready)
            self._run = run
        if self._run is not None:
            self._tell_what_is_missing(self._run)
            self._schedule.start(self._run)

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        """Count how often the loss of a batch is computed."""
        self._backwards += 1

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        """Look at the gradient before it is clipped."""
        if self._run is not None:
            with self._schedule.clock.reading(), self._faults.guard("looking at the gradient"):
                self._watch.record_gradient(optimizer)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Read the landscape at w(t), and the step from there to w(t+1)."""
        run = self._run
        if run is None:
            return
        run.end_fetches()
        with self._schedule.clock.reading():
            self._last_step = run.step
            due, readings = self._pending, Readings()
            lossless = not outputs and run.module.automatic_optimization
            if lossless:
                due.forget_newest()
            else:
                self._see_loss(run, due, run.batch_loss(outputs), batch_idx)
            if due and run.is_last_batch_of_step:
                finished = self._watch.disarm()
                landscape, finished = self._agreed(run, due, finished)
                run.finished = finished
                for part in self._schedule.parts(due.landscape) if landscape else ():
                    with self._faults.guard("the reading of the landscape"):
                        with self._schedule.timed(run, part) as seconds:
                            samples, trained = self._probe.samples(), self._probe_loss
                            self._reader.landscape(
                                run,
                                replace(due, landscape=part),
                                samples,
                                finished,
                                readings,
                                trained=trained,
                                is_step=run.batch_weight == 1.0,
                            )
                        readings.cost(*seconds)
                with self._faults.guard("the reading of the step"):
                    if due.step and finished:
                        with self._schedule.timed(run, due.step):
                            self._reader.step(run, due, finished, readings)
                run.finished = {}
                if finished or run.module.automatic_optimization:
                    self._pending = ReadingPlan()
            if lossless and run.is_first_batch_of_step(batch_idx):
                self._probe.discard_newest()
            with self._faults.guard("looking at the training loss"):
                loss = run.training_loss(outputs, read_now=bool(due))
                if loss is not None:
                    readings.check_finite("training loss", loss)
            alerts = self._recorder.record(run, run.step, readings)
        # what an alert does to the run is not of the readings' time
        if run.is_last_batch_of_step:
            run.rates.advance()
        self._recorder.act(run, alerts)
        self._rates = run.rates.state_dict()
        self._schedule.prioritize(feeding(self.measures, self._recorder.wanted))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the hooks off the optimizers."""
        shortage = self._probe.shortage
        if shortage and self._run is not None and any(m.stage == "landscape" for m in self.measures):
            self._faults.warn_once(shortage)
        if self._run is not None:
            self._recorder.finish()
        self._leave()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Take the hooks off the optimizers; what there is of the run is shown."""
        if self._run is not None:
            with suppress(Exception):  # the one that ended the run is what matters
                self._recorder.finish()
        self._leave()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the hooks off the optimizers."""
        self._leave()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on as one run in one piece: tensors and plain Python."""
        with self._faults.guard("saving the state of the monitor"):
            return {
                "last_step": self._last_step,
                **self._recorder.state_dict(),
                "rates": dict(self._rates),
                **self._schedule.state_dict(),
                "memory": self._reader.state_dict(),
                "compared": self._following.state_dict(),
                "probe": self._probe.state_dict(),
            }
        return {}  # a run that is resumed from this begins its readings anew

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._reset()
        with self._faults.guard("loading the state of the monitor"):
            self._resumed = True
            self._last_step = state_dict["last_step"]
            self._recorder.load_state_dict(state_dict)
            self._rates = dict(state_dict.get("rates", {}))
            self._schedule.load_state_dict(state_dict)
            self._reader.load_state_dict(state_dict["memory"])
            self._following.load_state_dict(state_dict.get("compared", {}))
            self._probe.load_state_dict(state_dict["probe"])
            seen = self._last_step >= 0
            self._probe_lost = seen and state_dict["probe"] is None and self._probe_source == "first"
            return
        self._reset()

    # what the hooks do

    def _tell_what_is_missing(self, run: LightningRun) -> None:
        if not run.trainer.loggers:
            self._faults.warn_once(
                "the Trainer has no logger, so readings are in monitor.history and in "
                "trainer.callback_metrics only"
            )
        if run.sharded:
            self._faults.warn_once(
                "the weights are sharded, so Hessian-vector products are made by central differences "
                "of gradients"
            )
        if self._probe_lost:
            self._faults.warn_once(
                "the checkpoint holds no probe, for its batches are over 64 MiB or no plain dicts, "
                "lists and tensors: the landscape is read on a new one, and its curves may jump; "
                "probe=[...] takes batches of your own"
            )
            self._probe_lost = False

    def _get_ready(self, batch: Any, batch_idx: int) -> None:
        """Right before `training_step`: keep what a reading of this step will need."""
        run = self._run
        if run is None:
            return
        begins = run.is_first_batch_of_step(batch_idx)
        if begins and not run.has_optimizers(run.trainer.optimizers):
            run = self._follow_new_optimizers(run)
            if run is None:
                return
        item = run.item(batch, batch_idx)
        self._backwards = 0
        with self._schedule.clock.reading():
            if begins:
                self._pending = self._what_is_due(run, last=self._pending)
            due = self._pending
            ready, due.ready = due.ready, False
            with self._faults.guard("getting ready for a reading"):
                if begins:
                    self._probe_loss = math.nan
                    self._probe.see(item, run.module, needed=bool(due.landscape))
                    if due.step or (due.landscape and self._probe.complete):
                        due.look(run, item)
                        self._watch.arm()
                if due.step:
                    due.keep(run, item)
                run.begin_fetches()
                due.ready = ready

    def _new_run(self, trainer: pl.Trainer, module: pl.LightningModule) -> LightningRun:
        return LightningRun(
            trainer, module, loss_fns=self._loss_fn, hvp=self._hvp, chunk_size=self._chunk_size
        )

    def _new_watch(self, run: LightningRun) -> StepWatch:
        self._following.start(run.optimizers, run.suffixes, self._schedule.clock)
        return StepWatch(
            run.optimizers,
            faults=self._faults,
            clips_by_value=run.clips_by_value,
            following=self._following,
            keeps_used=any(m.needs_used for m in self.measures),
        )

    def _follow_new_optimizers(self, run: LightningRun) -> LightningRun | None:
        """The optimizers were replaced in mid-run: go on with the new ones, or stand aside."""
        with self._faults.guard("setting up for other optimizers"):
            other = self._new_run(run.trainer, run.module)
            self._watch.remove()
            self._watch = self._new_watch(other)
            self._pending, self._run = ReadingPlan(), other
            return other
        self._leave()
        return None

    def _what_is_due(self, run: LightningRun, *, last: ReadingPlan) -> ReadingPlan:
        """What the cadences ask for: the same on every process, whatever each is ready for."""
        self._watch.disarm()
        due = ReadingPlan(self._schedule.due("landscape", run.step))
        self._owed = self._schedule.due("step", run.step) or self._owed
        by_hand = not run.module.automatic_optimization
        if (
            by_hand and last.samples and not run.gradients_are_clear
        ):  # the step goes on over several batches
            due.step, due.samples = last.step, last.samples
        elif not by_hand or self._watch.stepped:
            due.step, self._owed = self._owed, []
        self._watch.stepped = False
        return due

    def _see_loss(
        self, run: LightningRun, due: ReadingPlan, loss: Tensor | None, batch_idx: int
    ) -> None:
        """Keep the loss of a batch, to compare it with that of the re-run."""
        if self._backwards != 1:  # LBFGS, SAM: it is of another point
            loss = None
        if due.step:
            due.see_loss(loss)
        probed = self._probe.is_newest and run.is_first_batch_of_step(batch_idx)
        if due.landscape and probed and loss is not None:
            self._probe_loss = float(loss) / run.batch_weight

    def _agreed(
        self, run: LightningRun, due: ReadingPlan, finished: dict[int, FinishedStep]
    ) -> tuple[bool, dict[int, FinishedStep]]:
        """Whether the landscape can be read, and of which optimizers the step: on all processes."""
        ready = due.ready and not self._watch.failed  # else the weights before the step are lost
        landscape = bool(due.landscape) and ready and self._probe.complete
        here = [landscape, *(ready and i in finished for i in range(len(run.optimizers)))]
        everywhere = run.ready_everywhere(here)
        if here != everywhere:
            self._faults.warn_once("there is no reading, for another process was not ready for it")
        return everywhere[0], {i: step for i, step in finished.items() if everywhere[i + 1]}

    def _leave(self) -> None:
        if self._run is not None:
            self._run.end_fetches()
            self._run = None
            self._before_step.remove()
            self._watch.remove()
            self._pending = ReadingPlan()
            self._schedule.clock.stop()


class StandbyMonitor(CurvatureMonitor):
    """A CurvatureMonitor with the default arguments that steps aside where there is another one."""

    def __init__(self) -> None:
        super().__init__(name="CURVWATCH")

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave `trainer` if it has another monitor, its own or the module's."""
        if any(isinstance(c, CurvatureMonitor) for c in trainer.callbacks if c is not self):
            # another list: the Trainer is in a loop over this one
            trainer.callbacks = [c for c in trainer.callbacks if c is not self]
