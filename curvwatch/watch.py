"""Watch: the readings of CurvatureMonitor in a loop of the user's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from curvwatch.checks import Mode
from curvwatch.errors import OnError
from curvwatch.measures import Measure, check_cadence
from curvwatch.measures.presets import preset_options
from curvwatch.objective import Products
from curvwatch.objective.isolation.containers import clone_batch
from curvwatch.results import History
from curvwatch.results.advice import Advices, advise
from curvwatch.results.alerts import Action, Alert, PresetName, Rule
from curvwatch.results.loggers import as_loggers
from curvwatch.training.loop.forward_state import ForwardStateRecorder, samples_of
from curvwatch.training.loop.gradient_check import WRONG_ORDER, corrected_steps
from curvwatch.training.loop.run import LoopRun, LossFn, check_loss_fns, check_optimizers
from curvwatch.training.loop.step_gradients import StepGradients
from curvwatch.training.loop.wrappers import forward_module
from curvwatch.training.optimizer_groups import trained
from curvwatch.training.plan import ReadingPlan
from curvwatch.training.probe import ProbeKind
from curvwatch.training.reader import Readings
from curvwatch.training.session import Session, Steps
from curvwatch.training.steps import FinishedStep, StepWatch

log = logging.getLogger("curvwatch")

W = TypeVar("W", bound="Watch")

# a GradScaler skips some steps while it searches for its scale
_SKIPPED_AT_FIRST = 10


class Watch:
    """What `CurvatureMonitor` reads, in a plain PyTorch loop or one of Lightning Fabric.

    `step` is called once for each step, after `optimizer.step()`. What the loss was computed from is
    taken meanwhile by torch's hooks on the optimizer and on the model, so a reading is of w(t), with
    the random numbers and buffers of the step. It leaves no trace.

    The gradient is seen as the optimizer sees it. What was done to it after the backward pass
    (clipping by norm or by value, losses that are added up) is found by one gradient more in each
    reading, and the stability ratio is that of the gradient so scaled.

    Args:
        model: as the loop calls it: bare, compiled, in DDP, or as `fabric.setup` returns it. In DDP,
            readings are averaged over processes, and every process calls `step`.
        optimizer: that makes the steps, or a list.
        loss_fn: `loss_fn(model, batch)` returns the scalar loss; it uses the model it is given, which
            comes without DDP. A list has one for each optimizer.
        measures: what to measure: names, classes or instances of measures; default: `Sharpness` and
            `StepGeometry`.
        every_n_steps: read every n steps; None: as often as the budget allows.
        budget: the share of the training time that readings may take, where `every_n_steps` is None.
        probe: on what the landscape is read: "first", the first training batches, kept for the whole
            run; "current", the first batch of each step that is read; or batches of your own.
        probe_batches: how many batches "first" keeps, one of each step.
        mode: "train" measures the loss as it is trained; "eval" puts the model into eval mode for the
            landscape.
        hvp: "exact" or "difference", see `CurvatureMonitor`.
        chunk_size: the most examples of a part of a batch, see `CurvatureMonitor`.
        alerts: what to alert on, see `CurvatureMonitor`.
        rules: further rules of your own, over metrics of curvwatch.
        on_alert: what an alert does, see `CurvatureMonitor`; "stop" sets `stopped`, and a loop saves
            its own checkpoints.
        schedulers: torch's, of the learning rates, for `lower_lr` and `warmup_again`.
        on_error: "warn" reports a failed reading, once for each cause; "raise" raises.
        total_steps: how many steps the loop will make, so that readings are spread over them; None:
            nobody knows, and readings come in ever wider distances.
        logger: where readings go: objects with `log_metrics(dict, step=)` such as Lightning's and
            Fabric's loggers, a SummaryWriter, a W&B run, or a list of these.

    Raises:
        ValueError: an argument is out of range; the message says what would work.

    Example:
        >>> import torch
        >>> model = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> loss_fn = lambda model, batch: model(batch).square().mean()
        >>> with Watch(model, optimizer, loss_fn, every_n_steps=10) as watch:
        ...     for batch in torch.ones(20, 4, 2):
        ...         loss_fn(model, batch).backward()
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        ...         readings = watch.step(batch)
        >>> watch.history["curvature/sharpness"].steps
        array([ 0, 10])
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        loss_fn: LossFn | Sequence[LossFn],
        measures: Iterable[str | Measure | type[Measure]] | None = None,
        *,
        every_n_steps: int | None = None,
        budget: float = 0.05,
        probe: ProbeKind | Iterable[Any] = "first",
        probe_batches: int = 1,
        mode: Mode = "train",
        hvp: Products = "exact",
        chunk_size: int | None = None,
        alerts: PresetName | None = None,
        rules: Iterable[Rule] | None = None,
        on_alert: Action | Sequence[Action] | None = None,
        schedulers: Sequence[Any] = (),
        on_error: OnError = "warn",
        total_steps: int | None = None,
        logger: Any = None,
    ) -> None:
        if every_n_steps is not None:
            check_cadence(every_n_steps)
        optimizers = check_optimizers(model, optimizer)
        self._model = model
        self._loss_fns = check_loss_fns(loss_fn, len(optimizers))
        self._session = session = Session(
            measures,
            every_n_steps=every_n_steps,
            budget=budget,
            probe=probe,
            probe_batches=probe_batches,
            mode=mode,
            hvp=hvp,
            chunk_size=chunk_size,
            alerts=alerts,
            rules=rules,
            on_alert=on_alert,
            on_error=on_error,
        )
        self.measures = session.measures
        loggers = as_loggers(logger)
        self._plan = ReadingPlan()
        self._loss_called = False
        self._has_stepped = self._is_idle = False
        self._calls_without_step = 0
        self._run: LoopRun | None = None
        with session.errors.guard("setting up for this run"):
            run = LoopRun(
                model,
                optimizers,
                self._loss_fns,
                loggers=loggers,
                schedulers=schedulers,
                total_steps=total_steps,
                **session.run_options,
            )
            session.start(run, prepare_batch=clone_batch, device=run.processes.device)
            session.warn_of_limits(run)
            self._forward_states = ForwardStateRecorder(
                run, forward_module(model), self._before_the_step
            )
            self._gradients = StepGradients(run.optimizers, errors=session.errors)
            session.shadows.start(run.optimizers, run.suffixes, session.schedule.clock)
            self._steps = StepWatch(
                run.optimizers, errors=session.errors, shadows=session.shadows, always=False
            )
            self._run = run
            self._open = True
            session.schedule.start(run.processes, lambda: run.total_steps)
            self._get_ready(run)

    @classmethod
    def preset(
        cls: type[W],
        which: str,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        loss_fn: LossFn | Sequence[LossFn],
        *,
        measures: Iterable[str | Measure | type[Measure]] | None = None,
        budget: float | None = None,
        probe_batches: int | None = None,
        **options: Any,
    ) -> W:
        """A watch with a set of measures.

        Args:
            which: "watch", "study" or "everything", see `CurvatureMonitor.preset`.
            model: see `Watch`.
            optimizer: see `Watch`.
            loss_fn: see `Watch`.
            measures: others than the preset's.
            budget: another than the preset's.
            probe_batches: another number than the preset's.
            **options: further arguments of `Watch`.

        Raises:
            ValueError: there is no such preset, or an option is out of range.
        """
        chosen = preset_options(which, measures=measures, budget=budget, probe_batches=probe_batches)
        return cls(model, optimizer, loss_fn, **chosen, **options)

    def step(self, *batches: Any, loss: Tensor | None = None) -> dict[str, float]:
        """Read what is due of the step that was just made.

        Args:
            batches: those that it was made of, as `loss_fn` takes them; with accumulation all of them,
                in order: the loss of the step is their mean, each counted alike. None: those that
                `Watch.loss` was called with.
            loss: the training loss, for an alert as soon as it is not finite.

        Returns:
            The values that were read, by name; empty where nothing was due.

        Raises:
            ValueError: there is no batch.
        """
        if not batches and not self._loss_called:
            raise ValueError(
                "Watch.step() got no batch: give it the batches of the step, step(batch), or compute "
                "the loss with Watch.loss(batch)"
            )
        self._loss_called = False
        run = self._run
        if run is None or not self._open:
            return {}
        session, readings = self._session, Readings()
        if self._is_idle:
            begin, seen = session.schedule.clock.now(), run.training_loss(loss, read_now=False)
            if session.pass_by(run, None if seen is None else float(seen), begin=begin):
                run.step += 1
                if run.step >= session.schedule.next_event:
                    self._get_ready(run)
                return {}
        with session.schedule.clock.reading():
            session.last_step = run.step
            wanted, self._plan = self._plan, ReadingPlan()
            finished, plan = self._steps.disarm(), ReadingPlan()
            with session.errors.guard("getting ready for a reading"):
                self._warn_of_wrong_order(run)
                plan = self._with_batches(run, wanted, batches)
            if wanted:
                self._read(run, plan, finished, readings)
            if not self._is_idle:
                with session.errors.guard("checking the training loss"):
                    seen = run.training_loss(loss, read_now=bool(readings.values))
                    session.see_loss(run, None if seen is None else float(seen))
            alerts = session.record(run, readings)
            run.step += 1
        run.rates.advance()
        session.act(run, alerts)
        with session.schedule.clock.reading():
            self._get_ready(run)
        return readings.values

    def loss(self, batch: Any, index: int = 0) -> Any:
        """`loss_fn(model, batch)`, and records the state that it starts from.

        To be used where `loss_fn` draws random numbers before it calls the model, or changes its batch
        in place; `step()` needs no batch then.

        Args:
            batch: what the loss function is called with.
            index: of the optimizer whose loss it is; the batches of `step()` are those of the first.
        """
        if self._run is not None and index == 0:
            self._loss_called = True
            self._forward_states.see(batch)
        return self._loss_fns[index](self._model, batch)

    @property
    def history(self) -> History:
        """All readings of the run."""
        return self._session.recorder.history

    @property
    def alerts(self) -> list[Alert]:
        """All alerts of the run, in order."""
        return self._session.recorder.alerts

    def advice(self) -> Advices:
        """What the readings so far say about the learning rate, see `CurvatureMonitor.advice`."""
        return advise(self.history)

    @property
    def stopped(self) -> bool:
        """Whether an alert asked for the end of the run (`on_alert="stop"`): the loop is to look."""
        return self._run is not None and self._run.stopped

    def close(self) -> None:
        """End the run and take all hooks off; `step` reads no more."""
        if self._run is None or not self._open:
            return
        self._open = False
        self._forward_states.disarm()
        self._gradients.disarm()
        self._steps.remove()
        self._session.finish(log.info)
        self._session.schedule.stop()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on as one run in one piece: tensors and plain Python."""
        if self._run is not None:
            self._session.rates = self._run.rates.state_dict()
        return self._session.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`, of this class or of a `CurvatureMonitor`."""
        session = self._session
        session.load_state_dict(state_dict)
        run = self._run
        if run is None:
            return
        run.step = session.last_step + 1
        with session.errors.guard("setting up for this run"):
            session.resume(run, prepare_batch=clone_batch, device=run.processes.device)
            session.warn_of_limits(run)
            self._get_ready(run)

    def _get_ready(self, run: LoopRun) -> None:
        """Look ahead to the coming step."""
        session = self._session
        self._plan = plan = session.plan(run.step)
        self._steps.disarm()
        self._steps.stepped = False
        self._gradients.disarm()
        if plan:
            self._steps.arm()
            self._gradients.arm()
        needs_steps = session.shadows or session.probe.is_filling or not self._has_stepped
        if plan or needs_steps:
            self._steps.attach()
        else:
            self._steps.detach()
        self._is_idle = not plan and not needs_steps
        with self._session.errors.guard("getting ready for a reading"):
            self._forward_states.disarm()
            if plan or session.probe.is_filling:
                self._forward_states.arm()
                self._is_idle = False

    def _before_the_step(self, save: Callable[[], None]) -> None:
        """Save what a forward pass begins from, unless the step was made already."""
        session = self._session
        if not self._steps.stepped:
            with session.schedule.clock.reading(), session.errors.guard("getting ready for a reading"):
                save()

    def _with_batches(self, run: LoopRun, wanted: ReadingPlan, batches: Sequence[Any]) -> ReadingPlan:
        """What can be read of the step, with all that its loss depends on."""
        kept = self._forward_states.disarm()
        if batches:
            samples = samples_of(kept.samples, batches)
        else:
            samples = [s for s in kept.samples if s.batch.data is not None]
        if not samples:
            return ReadingPlan()
        first, probe = samples[0], self._session.probe
        probe.see(first.batch, run.module, needed=bool(wanted.landscape), random=first.random)
        landscape = wanted.landscape if probe.complete else []
        return replace(kept, landscape=landscape, step=wanted.step, samples=samples)

    def _read(
        self, run: LoopRun, plan: ReadingPlan, finished: dict[int, FinishedStep], readings: Readings
    ) -> None:
        # a GradScaler may have made a fused optimizer skip its step
        made = {i: step for i, step in finished.items() if i not in self._gradients.skipped}
        plan, made = self._session.readable_everywhere(run, plan, made)

        def correct(finished: Steps) -> Steps:
            with self._session.errors.guard("comparing gradients"):
                return corrected_steps(run, plan, finished, self._gradients.of_step, readings)
            return finished

        self._session.read(run, plan, made, readings, correct=correct)

    def _warn_of_wrong_order(self, run: LoopRun) -> None:
        """Say it where no step was ever made; a GradScaler may skip the first ones."""
        self._has_stepped |= self._steps.stepped
        if self._has_stepped:
            return
        self._calls_without_step += 1
        gradients = [p.grad for o in run.optimizers for p in trained(o) if p.grad is not None]
        waiting = bool(gradients) and all(bool(g.isfinite().all()) for g in gradients)
        if waiting or self._calls_without_step == _SKIPPED_AT_FIRST:
            self._session.errors.warn_once(WRONG_ORDER)
