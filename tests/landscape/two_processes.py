"""Run by test_snapshot_processes.py: runs on two processes; what each of them saw is saved.

python -m tests.landscape.two_processes DIRECTORY
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from curvwatch.landscape import Snapshot, Snapshots
from tests.support.modules import batches, fit
from tests.training.lightning.test_resume import Saver
from tests.training.lightning.two_processes import Normalised

STEPS, CUT = 11, 4
TOLD: list[str] = []
# the steps whose snapshots this process wrote
WRITTEN: list[int] = []


class Saves(pl.Callback):
    """Writes what this process saw."""

    def __init__(self, directory: Path, snapshots: Snapshots | None) -> None:
        self.directory, self.snapshots = directory, snapshots
        self.began: list[int] | None = None

    def on_train_batch_start(self, *_: Any) -> None:
        if self.began is None and self.snapshots is not None:
            self.began = list(self.snapshots.paths)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        seen = {
            "weights": dict(module.state_dict()),
            "random": torch.get_rng_state(),
            "began": self.began,
            "paths": self.snapshots and {s: str(p) for s, p in self.snapshots.paths.items()},
            "state": self.snapshots and self.snapshots.state_dict(),
            "written": list(WRITTEN),
            "warnings": [text for text in TOLD if text.startswith("curvwatch")],
        }
        torch.save(seen, self.directory / f"{trainer.global_rank}.pt")


def run(directory: Path, snapshots: Snapshots | None, *callbacks: Any, **options: Any) -> None:
    directory.mkdir()
    TOLD.clear()
    torch.manual_seed(0)
    ours = [] if snapshots is None else [snapshots]
    fit(
        Normalised(),
        *ours,
        *callbacks,
        Saves(directory, snapshots),
        data=batches(8 * STEPS),
        devices=2,
        strategy="ddp_fork",
        **{"max_steps": STEPS, "logger": False, **options},
    )


def main(directory: Path) -> None:
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.showwarning = lambda message, *_: TOLD.append(str(message))
    warnings.simplefilter("always")
    save = Snapshot.save

    def counted(self: Snapshot, folder: Path) -> Path:
        WRITTEN.append(self.step)
        return save(self, folder)

    Snapshot.save = counted  # type: ignore[method-assign]
    here: dict[str, Any] = {"default_root_dir": directory}
    cut = directory / "cut.ckpt"
    run(directory / "plain", None)
    # in the Trainer's folder, where another run has files
    (directory / "snapshots").mkdir()
    torch.save({}, directory / "snapshots" / "step-000000007.pt")
    saver = Saver(cut, "on_train_batch_end", at=CUT)
    run(directory / "watched", Snapshots(grid="1-2-5"), saver, **here)
    # takes steps after the cut again, and goes on
    run(directory / "resumed", Snapshots(grid="1-2-5"), ckpt_path=cut, max_steps=8, **here)
    blocked = directory / "blocked"
    blocked.write_text("")
    run(directory / "fails", Snapshots(blocked / "s"), max_steps=2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
