"""`curvwatch demo`: three optimizers on handwritten digits, each at its edge of stability."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from curvwatch.cli.demo.digits import RUNS, whole_data_set
from curvwatch.cli.demo.table import results_table
from curvwatch.cli.demo.train import progress_bar, quiet, train
from curvwatch.errors import CurvwatchError
from curvwatch.results import History

MARKER = "made-by-curvwatch-demo"


def fresh_folders(folders: Iterable[Path]) -> None:
    """Make `folders` empty but for a marker; what an earlier demo left in them is deleted.

    Raises:
        CurvwatchError: one holds something and no marker, so the demo did not make it; nothing has
            been deleted then.
    """
    folders = list(folders)
    for folder in folders:
        if folder.exists() and not _is_ours(folder):
            raise CurvwatchError(
                f"{folder} is in the way, and no earlier demo made it: choose another --dir"
            )
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        (folder / MARKER).write_text("`curvwatch demo` replaces this folder when it runs again.\n")


def _is_ours(folder: Path) -> bool:
    return folder.is_dir() and ((folder / MARKER).exists() or not any(folder.iterdir()))


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
    found = shutil.which("tensorboard")
    if not beside.exists() or (found and Path(found).resolve() == beside.resolve()):
        return "tensorboard"
    here = Path.cwd()
    return str(beside.relative_to(here) if beside.is_relative_to(here) else beside)


__all__ = ["run_demo"]
