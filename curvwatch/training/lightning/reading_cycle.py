"""What `CurvatureMonitor` does from the beginning of a step to its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from torch import Tensor

from curvwatch.measures import Measure
from curvwatch.training.lightning.hook_switch import HookSwitch
from curvwatch.training.lightning.run import LightningRun
from curvwatch.training.lightning.watched_metrics import WatchedMetrics
from curvwatch.training.plan import ReadingPlan
from curvwatch.training.reader import Readings
from curvwatch.training.session import Session
from curvwatch.training.steps import StepWatch


class ReadingCycle:
    """Keeps what a reading needs before each step, and reads after it.

    Args:
        session: of the run.
        run: that begins.
        new_run: makes the run of the optimizers that the Trainer has now.
        hooks: of the callback, that are needed at readings alone.
        watched: what others wait for.

    Attributes:
        run: that is read; None once it cannot be any more.
    """

    def __init__(
        self,
        session: Session,
        run: LightningRun,
        new_run: Callable[[], LightningRun],
        *,
        hooks: HookSwitch,
        watched: WatchedMetrics,
    ) -> None:
        self._session, self._new_run = session, new_run
        self._hooks, self._watched = hooks, watched
        self.run: LightningRun | None = run
        self._is_idle = False
        # else every batch or step has to be seen
        self._may_idle = run.module.automatic_optimization and not run.fetches and not session.shadows
        self._steps = self._new_step_watch(run)
        self._plan = ReadingPlan()
        self._postponed: list[Measure] = []
        self._probe_loss = math.nan
        self._backwards = 0
        self._before_step = run.call_before_step(self.begin)

    def begin(self, batch: Any, batch_idx: int) -> None:
        """Right before `training_step`: keep what a reading of this step will need."""
        run, session = self.run, self._session
        if run is None:
            return
        clock = session.schedule.clock
        begin = clock.now()
        begins = run.is_first_batch_of_step(batch_idx)
        also = (
            self._watched.measures(batch_idx, session.measures) if self._watched and begins else set()
        )
        self._is_idle = (
            self._may_idle
            and run.step < session.schedule.next_event
            and not also
            and not self._plan
            and not session.probe.is_filling
            and run.has_its_optimizers
        )
        if self._is_idle:
            clock.add(clock.now() - begin)
            return
        self._hooks.show()
        if begins and not run.has_optimizers(run.trainer.optimizers):
            self._follow_new_optimizers()
            run = self.run
            if run is None:
                return
        item = run.item(batch, batch_idx)
        self._backwards = 0
        with clock.reading():
            if begins:
                self._plan = self._what_is_due(run, last=self._plan, also=also)
            plan = self._plan
            with session.errors.guard("getting ready for a reading"):
                if not plan and self._may_idle:
                    self._hooks.hide()
                if begins:
                    self._probe_loss = math.nan
                    session.probe.see(item, run.module, needed=bool(plan.landscape))
                    if plan.step or (plan.landscape and session.probe.complete):
                        plan.save_module_state(run, item)
                        self._steps.arm()
                if plan.step:
                    plan.add_batch(run, item)
                run.begin_fetches()
                return
            plan.ready = False

    def count_backward(self) -> None:
        """The loss of a batch was computed."""
        self._backwards += 1

    def save_gradient(self, optimizer: Any) -> None:
        """Save the gradient before it is clipped."""
        session = self._session
        with session.schedule.clock.reading(), session.errors.guard("saving the gradient"):
            self._steps.record_gradient(optimizer)

    def end(self, outputs: Any, batch_idx: int) -> None:
        """After the batch: read the landscape at w(t), and the step from there to w(t+1)."""
        run, session = self.run, self._session
        if run is None:
            return
        if self._is_idle:
            begin = session.schedule.clock.now() - self._hooks.dispatch_seconds
            if session.pass_by(run, run.host_loss(outputs), begin=begin):
                return
        run.end_fetches()
        with session.schedule.clock.reading():
            session.last_step = run.step
            plan, readings = self._plan, Readings()
            has_no_loss = not outputs and run.module.automatic_optimization
            if has_no_loss:
                plan.drop_last_batch()
            else:
                self._add_loss(run, plan, run.batch_loss(outputs), batch_idx)
            if plan and run.is_last_batch_of_step:
                self._read(run, plan, readings)
            if has_no_loss and run.is_first_batch_of_step(batch_idx):
                session.probe.discard_newest()
            if not self._is_idle:
                with session.errors.guard("checking the training loss"):
                    loss = run.training_loss(outputs, read_now=bool(plan))
                    session.see_loss(run, None if loss is None else float(loss))
            alerts = session.record(run, readings)
        # what an alert does to the run is not of the readings' time
        if run.is_last_batch_of_step:
            run.rates.advance()
        session.act(run, alerts)

    def close(self) -> None:
        """Take all hooks off."""
        if self.run is not None:
            self.run.end_fetches()
            self.run = None
        self._before_step.remove()
        self._steps.remove()
        self._plan = ReadingPlan()
        self._hooks.remove()

    def _new_step_watch(self, run: LightningRun) -> StepWatch:
        session = self._session
        session.shadows.start(run.optimizers, run.suffixes, session.schedule.clock)
        return StepWatch(
            run.optimizers,
            errors=session.errors,
            clips_by_value=run.clips_by_value,
            shadows=session.shadows,
            keeps_used=any(m.needs_used for m in session.measures),
            always=not self._may_idle,
        )

    def _follow_new_optimizers(self) -> None:
        """The optimizers were replaced in mid-run: go on with the new ones, or stop reading."""
        with self._session.errors.guard("setting up for other optimizers"):
            other = self._new_run()
            self._steps.remove()
            self._steps = self._new_step_watch(other)
            self._plan, self.run = ReadingPlan(), other
            return
        self.close()

    def _what_is_due(
        self, run: LightningRun, *, last: ReadingPlan, also: Collection[str]
    ) -> ReadingPlan:
        """What the cadences ask for: the same on every process, whatever each is ready for."""
        self._steps.disarm()
        plan = self._session.plan(run.step, also=also)
        self._postponed = plan.step or self._postponed
        plan.step = []
        by_hand = not run.module.automatic_optimization
        if by_hand and last.samples and not run.gradients_are_clear:
            # the step goes on over several batches
            plan.step, plan.samples = last.step, last.samples
        elif not by_hand or self._steps.stepped:
            plan.step, self._postponed = self._postponed, []
        self._steps.stepped = False
        return plan

    def _add_loss(
        self, run: LightningRun, plan: ReadingPlan, loss: Tensor | None, batch_idx: int
    ) -> None:
        """Keep the loss of a batch, to compare it with that of the re-run."""
        if self._backwards != 1:  # LBFGS, SAM: it is of another point
            loss = None
        if plan.step:
            plan.add_loss(loss)
        probed = self._session.probe.is_newest and run.is_first_batch_of_step(batch_idx)
        if plan.landscape and probed and loss is not None:
            self._probe_loss = float(loss) / run.batch_weight

    def _read(self, run: LightningRun, plan: ReadingPlan, readings: Readings) -> None:
        """Read what is due, once the step was made."""
        session = self._session
        finished = self._steps.disarm()
        ready = plan.ready and not self._steps.failed  # else the weights before the step are lost
        wanted = plan if session.probe.complete else replace(plan, landscape=[])
        readable, finished = session.readable_everywhere(run, wanted, finished, ready=ready)
        trained, is_step = self._probe_loss, run.batch_weight == 1.0
        session.read(run, readable, finished, readings, trained=trained, is_step=is_step)
        if finished or run.module.automatic_optimization:
            self._plan = ReadingPlan()
        if self._may_idle:
            self._steps.detach()
            self._hooks.hide()
