"""A callback that keeps the few checkpoints that plots of the landscape need."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

from curvwatch.checks import check_choice
from curvwatch.errors import CurvwatchError, ErrorPolicy, OnError
from curvwatch.landscape.checkpoints import check_count
from curvwatch.landscape.snapshots.files import HALVES, files_in, run_of, taken_of
from curvwatch.landscape.snapshots.grid import Grid, is_due, least_missed
from curvwatch.training.lightning.callback import CallbackBase

if TYPE_CHECKING:
    import lightning.pytorch as pl

_FOLDER = "snapshots"


class Snapshots(CallbackBase):
    """Keeps the weights of a few steps of a run: the first, the last, and some in between.

    A file holds the trained parameters and the buffers, no optimizer; `weights_of`, `path` and
    `interpolate` take it, and torch.load(weights_only=True) reads it. It is written on rank zero, after
    the step that it is named after; steps are Lightning's `global_step`. The end is saved on an
    exception, too. Nothing is drawn, nothing is changed: the run is bit for bit what it would be
    without. A `fast_dev_run` writes nothing.

    A run that is resumed goes on in the same folder, and files of steps after its checkpoint, which it
    takes again, are removed. A new run never touches the files of another: where its folder has some it
    takes `snapshots-1` beside it, and so on.

    Args:
        folder: where files go; None: `snapshots` in the Trainer's `log_dir`, or where it has none in
            its `default_root_dir`.
        every_n_steps: after each so many steps, in place of a grid: `trajectory` wants it, as each
            checkpoint weighs the same there.
        grid: "log": ten steps a decade (1 to 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 63, 79, 100, 126
            ...), or "1-2-5".
        max_files: the most files; beyond, those go without which the others are evenly spaced (in the
            logarithm of the step, with `every_n_steps` in steps), never the first and the end. Where
            some went, the largest gap is less than four times the smallest, and with three files twice,
            but for what the grid has no step for. Until the end the newest may be up to two gaps old.
        max_bytes: the most bytes of all files together, kept likewise; None: any number.
        dtype: "float16" or "bfloat16": of the files, which say so; weights are cast back on reading. A
            tensor with numbers too large for it keeps its own. None: all bits.
        name: distinguishes several in one Trainer; needs a folder for each, too.
        on_error: "warn" where a file cannot be written, or "raise".

    Raises:
        ValueError: an argument is not what it should be.

    Example:
        >>> snapshots = Snapshots(max_files=20, dtype="float16")  # Trainer(callbacks=[snapshots])
        >>> dict(snapshots.paths)
        {}
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        every_n_steps: int | None = None,
        grid: Grid = "log",
        max_files: int = 50,
        max_bytes: int | None = None,
        dtype: Literal["float16", "bfloat16"] | None = None,
        name: str | None = None,
        on_error: OnError = "warn",
    ) -> None:
        super().__init__()
        check_choice("grid", grid, get_args(Grid))
        if every_n_steps is not None:
            check_count("every_n_steps", every_n_steps, at_least=1)
        check_count("max_files", max_files, at_least=2)
        if max_bytes is not None:
            check_count("max_bytes", max_bytes, at_least=1)
        if dtype is not None:
            check_choice("dtype", dtype, tuple(HALVES))
        check_choice("on_error", on_error, get_args(OnError))
        self._folder_given = None if folder is None else Path(folder)
        self._every_n_steps = every_n_steps
        self._grid: Grid = grid
        self._max_files = max_files
        self._max_bytes = max_bytes
        self._dtype = dtype
        self._name = name
        self._errors = ErrorPolicy(on_error)
        self._folder: Path | None = None
        self._run = ""
        self._paths: dict[int, Path] = {}
        self._seen = -1
        self._resumed: dict[str, Any] | None = None
        self._active = False

    @property
    def paths(self) -> Mapping[int, Path]:
        """From step to file, in order; other ranks than zero have it when the run begins and ends.

        Processes that a strategy forks or spawns keep this to themselves: `snapshots_in` has it then.
        """
        return MappingProxyType(self._paths)

    @property
    def state_key(self) -> str:
        """In checkpoints."""
        return type(self).__name__ + (f"[{self._name}]" if self._name else "")

    # the hooks

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the initialisation."""
        resumed, self._resumed = self._resumed, None
        # asks all ranks
        where = self._folder_given or Path(trainer.log_dir or trainer.default_root_dir) / _FOLDER
        self._active = self._errors.run_is_over = False
        if getattr(trainer, "fast_dev_run", False):
            return
        if trainer.is_global_zero:
            self._start(trainer, pl_module, where, resumed)
        self._share(trainer)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keep the weights, where the step is on the grid."""
        step = trainer.global_step
        if not self._active or step == self._seen:
            return
        before, self._seen = self._seen, step
        if is_due(before, step, every=self._every_n_steps, grid=self._grid):
            self._keep(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the end; averages of weights may have taken their place in the last step's."""
        self._errors.run_is_over = True
        if self._active:
            self._keep(trainer, pl_module, ended=True)
        if not getattr(trainer, "fast_dev_run", False):
            self._share(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Keep what there is."""
        self._errors.run_is_over = True
        if self._active and trainer.global_step not in self._paths:
            self._keep(trainer, pl_module, ended=True)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint of the Trainer's."""
        folder = None if self._folder is None else str(self._folder)
        return {"run": self._run, "folder": folder, "seen": self._seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A run is resumed from `state_dict()`."""
        self._resumed = dict(state_dict)

    # what they do

    def _start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        where: Path,
        resumed: dict[str, Any] | None,
    ) -> None:
        step = trainer.global_step
        with self._errors.guard("preparing the folder of snapshots"):
            self._begin(where, step, resumed)
            self._active = True
            if step > 0 and 0 not in self._paths:
                self._errors.warn_once(
                    f"the run goes on from step {step} and there is no snapshot of its initialisation, "
                    "so the first one is of this step"
                )
        if self._active:
            self._seen = step
            if not self._paths:
                self._keep(trainer, pl_module)

    def _begin(self, where: Path, step: int, resumed: dict[str, Any] | None) -> None:
        """Find the folder, and which files in it are of this run."""
        if resumed is not None and resumed["folder"] is not None:
            # a folder that was moved along with the run, or that of the run as it was
            for folder in (where, Path(resumed["folder"])):
                if self._own(folder, resumed["run"]):
                    self._go_on(folder, resumed["run"], step)
                    return
        elif self._folder is not None and self._run and step >= max(self._paths, default=0) and step:
            return  # another fit of the same Trainer
        self._errors.reset()
        folder, number = where, 0
        while files_in(folder):
            number += 1
            folder = where.with_name(f"{where.name}-{number}")
        self._folder, self._run, self._paths = folder, uuid.uuid4().hex, {}

    def _share(self, trainer: pl.Trainer) -> None:
        """Tell the other ranks; all of them come here."""
        known = self._folder, self._run, self._paths
        self._folder, self._run, self._paths = trainer.strategy.broadcast(known)

    def _own(self, folder: Path, run: str) -> dict[int, Path]:
        """The files in `folder` that are of `run`."""
        return {step: path for step, path in files_in(folder).items() if run_of(path) == run}

    def _go_on(self, folder: Path, run: str, step: int) -> None:
        self._folder, self._run = folder, run
        own = self._own(folder, run)
        for later in [s for s in own if s > step]:
            own.pop(later).unlink()
        self._paths = own

    def _keep(self, trainer: pl.Trainer, module: pl.LightningModule, *, ended: bool = False) -> None:
        with self._errors.guard("saving a snapshot"):
            strategy = type(trainer.strategy).__name__
            if "FSDP" in strategy:
                raise CurvwatchError(f"{strategy} spreads the weights over processes")
            step = trainer.global_step
            package = type(trainer).__module__.partition(".")[0]
            taken = taken_of(
                module,
                step=step,
                epoch=trainer.current_epoch,
                run=self._run,
                stored=self._dtype,
                lightning=import_module(package).__version__,
            )
            assert self._folder is not None
            self._paths[step] = taken.save(self._folder)
            self._paths = dict(sorted(self._paths.items()))
            self._thin(ended=ended)

    def _thin(self, *, ended: bool) -> None:
        """Remove files until there are few enough."""
        while len(self._paths) > 2 and self._too_many():
            step = least_missed(list(self._paths), even=self._every_n_steps is not None, ended=ended)
            self._paths.pop(step).unlink(missing_ok=True)
        if self._bytes > (self._max_bytes or self._bytes):
            self._errors.warn_once(
                f"the snapshots of the first and the last step take {self._bytes} bytes, more than "
                f"max_bytes={self._max_bytes}",
                causes=("max_bytes",),
            )

    def _too_many(self) -> bool:
        return len(self._paths) > self._max_files or (
            self._max_bytes is not None and self._bytes > self._max_bytes
        )

    @property
    def _bytes(self) -> int:
        return sum(path.stat().st_size for path in self._paths.values() if path.exists())
