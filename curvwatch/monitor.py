"""CurvatureMonitor: when to read, in which order, and where readings go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_info

from curvwatch.checks import Mode, check_int
from curvwatch.errors import OnError
from curvwatch.measures import Measure, check_cadence
from curvwatch.measures.presets import preset_options
from curvwatch.objective import Products
from curvwatch.results import History
from curvwatch.results.advice import Advices, advise
from curvwatch.results.alerts import Action, Alert, PresetName, Rule
from curvwatch.training.lightning.callback import CallbackBase
from curvwatch.training.lightning.hook_switch import HookSwitch
from curvwatch.training.lightning.reading_cycle import ReadingCycle
from curvwatch.training.lightning.run import LightningRun
from curvwatch.training.lightning.training_step import LossFn, check_loss_fns
from curvwatch.training.lightning.watched_metrics import WatchedMetrics
from curvwatch.training.probe import ProbeKind
from curvwatch.training.session import Session

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from torch import Tensor

_NO_LOGGER = (
    "the Trainer has no logger, so readings are in monitor.history and in trainer.callback_metrics only"
)


class CurvatureMonitor(CallbackBase):
    """Logs how sharp the loss is, how near the edge of stability, and what each step does.

    Args:
        measures: what to measure: names, classes or instances of measures; default: `Sharpness` and
            `StepGeometry`.
        every_n_steps: read every n optimizer steps; None: as often as the budget allows.
        every_n_epochs: read in the last step of every n-th epoch, beside `every_n_steps`; without
            that, only there. None: where callbacks or schedulers monitor a metric of curvwatch, it is
            read right before they look.
        budget: the share of the training time that readings may take, where `every_n_steps` and
            `every_n_epochs` are None.
        probe: on what the landscape is read: "first", the first training batches that flow by, kept
            for the whole run; "current", the training batch of each reading; or batches of your own.
        probe_batches: how many batches "first" keeps.
        mode: "train" measures the loss as it is trained (dropout and batch statistics on, with fixed
            random numbers); "eval" puts the module into eval mode for the landscape.
        loss_fn: `loss_fn(module, batch)` returns the loss to measure instead of `training_step`'s;
            needed where the losses of manual optimization cannot be inferred. A list has one for each
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
        name: distinguishes several monitors of one Trainer in checkpoints.

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
        every_n_epochs: int | None = None,
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
        if every_n_steps == 0:
            check_cadence(every_n_steps)
        if every_n_epochs is not None:
            check_int(
                "every_n_epochs", every_n_epochs, at_least=1, what="a number of epochs, 1 or more,"
            )
        never_between = every_n_epochs is not None and every_n_steps is None
        self._session = Session(
            measures,
            every_n_steps=0 if never_between else every_n_steps,
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
        self.measures = self._session.measures
        self.every_n_steps = every_n_steps
        self.every_n_epochs = every_n_epochs
        self.budget = budget
        self.name = name
        self._loss_fn = check_loss_fns(loss_fn)
        self._cycle: ReadingCycle | None = None
        self._resumed = False

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

    @property
    def history(self) -> History:
        """All readings of the run."""
        return self._session.recorder.history

    @property
    def alerts(self) -> list[Alert]:
        """All alerts of the run, in order."""
        return self._session.recorder.alerts

    def advice(self) -> Advices:
        """What the readings so far say about the learning rate of each optimizer and group.

        The largest constant learning rate that the measured landscape supports, when to warm up to it
        if at all, the evidence and the uncertainty; `print` shows it in words. Where the readings do
        not allow advice it says why. docs/advice.md has what is advised, and how runs took it.
        """
        return advise(self.history)

    @cached_property
    def state_key(self) -> str:
        """Distinguishes the states of several monitors in a checkpoint."""
        return self._generate_state_key(name=self.name)

    # the hooks, in the order of a run

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepare to read the run; where it cannot be measured, warn why and do nothing."""
        session = self._session
        self._leave()
        session.errors.reset()
        with session.errors.guard("setting up for this run"):
            run = self._new_run(trainer, pl_module)
            if not self._resumed and run.step <= session.last_step:
                session.reset()  # another run, from its beginning
            self._resumed = False
            session.start(run, prepare_batch=run.prepare_batch, device=pl_module.device)
            watched = WatchedMetrics(trainer, every_n_epochs=self.every_n_epochs)
            self._cycle = ReadingCycle(
                session,
                run,
                lambda: self._new_run(trainer, pl_module),
                hooks=HookSwitch(self, CurvatureMonitor),
                watched=watched,
            )
        if self._cycle is not None:
            if not trainer.loggers:
                session.errors.warn_once(_NO_LOGGER)
            session.warn_of_limits(run)
            watched.warn(session.metrics, session.errors)
            session.schedule.start(run.processes, lambda: run.total_steps)

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        """Count how often the loss of a batch is computed."""
        if self._cycle is not None:
            self._cycle.count_backward()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        """Save the gradient before it is clipped."""
        if self._cycle is not None:
            self._cycle.save_gradient(optimizer)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Read the landscape at w(t), and the step from there to w(t+1)."""
        if self._cycle is not None:
            self._cycle.end(outputs, batch_idx)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the hooks off the optimizers."""
        if self._cycle is not None:
            self._session.finish(rank_zero_info)
        self._leave()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Take the hooks off the optimizers; what there is of the run is shown."""
        self._session.errors.run_is_over = True
        if self._cycle is not None:
            with suppress(Exception):  # the one that ended the run is what matters
                self._session.recorder.finish(lambda: self._session.schedule.clock.share)
        self._leave()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the hooks off the optimizers."""
        self._leave()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on as one run in one piece: tensors and plain Python."""
        return self._session.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._session.reset()
        with self._session.errors.guard("loading the state of the monitor"):
            self._resumed = True
            self._session.load_state_dict(state_dict)
            return
        self._session.reset()

    def _new_run(self, trainer: pl.Trainer, module: pl.LightningModule) -> LightningRun:
        return LightningRun(trainer, module, loss_fns=self._loss_fn, **self._session.run_options)

    def _leave(self) -> None:
        if self._cycle is not None:
            self._cycle.close()
            self._cycle = None
            self._session.schedule.stop()


class StandbyMonitor(CurvatureMonitor):
    """A CurvatureMonitor with the default arguments that steps aside where there is another one."""

    def __init__(self) -> None:
        super().__init__(name="CURVWATCH")

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave `trainer` if it has another monitor, its own or the module's."""
        if any(isinstance(c, CurvatureMonitor) for c in trainer.callbacks if c is not self):
            # another list: the Trainer is in a loop over this one
            trainer.callbacks = [c for c in trainer.callbacks if c is not self]
