"""Trains the runs of the demo one after the other, and prints what they show."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from rich.console import Console

from curvwatch.cli.demo.digits import RUNS, whole_data_set
from curvwatch.cli.demo.folders import fresh_folders
from curvwatch.cli.demo.table import results_table
from curvwatch.cli.demo.train import progress_bar, quiet, train
from curvwatch.results import History


def run_demo(directory: Path, *, steps: int, console: Console | None = None) -> dict[str, History]:
    """Train each of `RUNS`, log it to `directory`/<name>, and print a table of the results.

    Args:
        directory: of the TensorBoard logs; runs that an earlier demo left there are replaced.
        steps: optimizer steps of each run.
        console: where to print.

    Returns:
        All readings of each run.

    Raises:
        CurvwatchError: a folder of a run's name is in the way that the demo did not make.
    """
    console = console or Console(highlight=False)
    begin = time.perf_counter()
    folders = {name: directory / name for name in RUNS}
    fresh_folders(folders.values())
    batch = whole_data_set()
    console.print(
        f"A network with two hidden layers learns scikit-learn's {len(batch[0])} handwritten digits, "
        f"all of them at each of {steps} steps, with {len(RUNS)} optimizers:"
    )
    histories: dict[str, History] = {}
    with quiet(), progress_bar(console) as progress:
        for name, run in RUNS.items():
            histories[name] = train(run, batch, steps=steps, folder=folders[name], progress=progress)
    console.print(results_table(histories))
    seconds = time.perf_counter() - begin
    console.print(f"{seconds:.0f} s. The logs are in {directory}. To see the curves:\n")
    console.print(f"    {_tensorboard_command()} --logdir {directory}", soft_wrap=True)
    console.print("\nand open http://localhost:6006/#custom_scalars&_smoothingWeight=0", soft_wrap=True)
    return histories


def _tensorboard_command() -> str:
    """As the user can type it: by name where it is on the PATH, else as a path."""
    beside = Path(sys.executable).parent / "tensorboard"
    on_path = shutil.which("tensorboard")
    if not beside.exists() or (on_path and Path(on_path).resolve() == beside.resolve()):
        return "tensorboard"
    here = Path.cwd()
    return str(beside.relative_to(here) if beside.is_relative_to(here) else beside)
