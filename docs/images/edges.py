"""Draw docs/images/edges.png: optimizers on the digits, each at its own edge of stability.

Run by `make images`; trains every optimizer for 1200 steps, some 5 minutes on a free core. Writes
edges.json with all readings beside the picture, and prints the table of docs/stability.md.
`python docs/images/edges.py --redraw` draws and prints from that file, without training.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, optim
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from curvwatch import CurvatureMonitor
from curvwatch.cli.demo.digits import Batch, DigitsNet, whole_data_set
from curvwatch.cli.demo.train import progress_bar, quiet

STEPS, EVERY = 1200, 20
REACHED = 0.95
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "0.35"  # distinguishable with any colour vision


@dataclass(frozen=True)
class Run:
    """One panel: its title, its settings for people, and from the parameters to the optimizer."""

    title: str
    settings: str
    optimizer: Callable[[Iterable[Tensor]], Optimizer]


RUNS = (
    Run("Gradient descent", "lr .2", lambda p: optim.SGD(p, lr=0.2)),
    Run("Heavy ball .9", "lr .2", lambda p: optim.SGD(p, lr=0.2, momentum=0.9)),
    Run("Nesterov .9", "lr .1", lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True)),
    Run("Adam", "lr 1e-3, eps 1e-7", lambda p: optim.Adam(p, lr=1e-3, eps=1e-7)),
    Run(
        "AdamW",
        "lr 1e-3, eps 1e-7, weight decay .1",
        lambda p: optim.AdamW(p, lr=1e-3, eps=1e-7, weight_decay=0.1),
    ),
    Run("NAdam", "lr 5e-4, eps 1e-7", lambda p: optim.NAdam(p, lr=5e-4, eps=1e-7)),
    Run("RAdam", "lr 4e-3, eps 1e-7", lambda p: optim.RAdam(p, lr=4e-3, eps=1e-7)),
    Run("Adamax", "lr 8e-3", lambda p: optim.Adamax(p, lr=8e-3)),
    Run("RMSprop", "lr 5e-4", lambda p: optim.RMSprop(p, lr=5e-4, alpha=0.99)),
    Run("Adagrad", "lr .01", lambda p: optim.Adagrad(p, lr=0.01)),
    Run("Adadelta", "lr .4", lambda p: optim.Adadelta(p, lr=0.4)),
    Run("Adafactor", "lr .01", lambda p: optim.Adafactor(p, lr=0.01)),
)


class Bar(L.Callback):
    """Shows the steps and the latest ratio of one run."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(title, total=STEPS, latest="")

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """One step further."""
        ratio = trainer.callback_metrics.get("curvature/stability_ratio")
        latest = "" if ratio is None else f"chi {ratio:4.2f}"
        self._progress.update(self._task, completed=trainer.global_step, latest=latest)


def trained(run: Run, batch: Batch, progress: Progress) -> dict[str, Any]:
    """Train one optimizer from seed 0 on the whole data set; its readings and what they come to."""
    torch.manual_seed(0)
    monitor = CurvatureMonitor(["sharpness"], every_n_steps=EVERY, on_error="raise")
    L.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=[monitor, Bar(progress, run.title)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    ).fit(DigitsNet(run.optimizer), DataLoader([batch] * STEPS, batch_size=None))
    history = monitor.history
    steps, ratios = history["curvature/stability_ratio"]
    residuals = history["curvature/residual"].values
    return {
        "settings": run.settings,
        **summary(steps, ratios),
        "largest_residual": float(f"{residuals.max():.2g}"),
        "steps": steps.tolist(),
        "ratio": rounded(ratios),
        "sharpness": rounded(history["curvature/sharpness"].values),
        "loss": rounded(history["curvature/loss"].values),
    }


def summary(steps: np.ndarray, ratios: np.ndarray) -> dict[str, Any]:
    """Where the ratio first passes .95, and its median and range from the next reading on.

    The reading of step 0 does not count: an adaptive P is made of a single gradient there.
    """
    passed = np.flatnonzero((ratios > REACHED) & (steps > 0))
    after = ratios[passed[0] + 1 :] if len(passed) else np.array([])
    if not len(after):
        return {"reached": None, "highest": round(float(np.nanmax(ratios[1:])), 3), "readings": 0}
    median, low, high = np.median(after), after.min(), after.max()
    return {
        "reached": int(steps[passed[0]]),
        "median": round(float(median), 3),
        "lowest": round(float(low), 3),
        "highest": round(float(high), 3),
        "readings": len(after),
    }


def rounded(values: np.ndarray) -> list[float | None]:
    """Four digits of each; JSON has no nan."""
    return [None if np.isnan(value) else float(f"{value:.4g}") for value in values]


def table(runs: dict[str, Any]) -> str:
    """Markdown: one row a run."""
    rows = [
        "| optimizer | settings | chi at the edge: median [min, max] | passes .95 at step |",
        "|---|---|---|---|",
    ]
    for title, run in runs.items():
        if run["reached"] is None:
            there, when = f"at most {run['highest']:.3f}", "never"
        else:
            there = f"{run['median']:.3f} [{run['lowest']:.3f}, {run['highest']:.3f}]"
            when = str(run["reached"])
        rows.append(f"| {title} | {run['settings']} | {there} | {when} |")
    return "\n".join(rows)


def drawn(runs: dict[str, Any], columns: int = 4) -> Figure:
    """Small multiples: the ratio above, plain sharpness below, the same axes for all."""
    rows = -(-len(runs) // columns)
    figure = Figure(figsize=(11, 3.3 * rows + 0.4), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.09, w_pad=0.08)
    heights = [2.0, 1.1] * rows
    grid = figure.subplots(
        2 * rows, columns, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for index, (title, run) in enumerate(runs.items()):
        row, column = divmod(index, columns)
        above, below = grid[2 * row, column], grid[2 * row + 1, column]
        draw_ratio(above, title, run)
        below.plot(run["steps"], floats(run["sharpness"]), color=ORANGE, linewidth=1.6)
        below.set(ylim=(0, 25), yticks=[0, 10, 20])
        for axes in (above, below):
            axes.tick_params(labelsize=10, labelleft=column == 0)
            axes.grid(color="0.92", linewidth=0.8)
            axes.spines[["top", "right"]].set_visible(False)
        if column == 0:
            above.set_ylabel("stability\nratio chi", color=BLUE, fontsize=11)
            below.set_ylabel("plain\nsharpness", color=ORANGE, fontsize=11)
    for axes in grid[-1]:
        axes.set(xlabel="step", xlim=(0, STEPS), xticks=[0, 500, 1000])
    return figure


def draw_ratio(axes: Axes, title: str, run: dict[str, Any]) -> None:
    """The ratio over the steps, with its edge and its median there."""
    axes.axhline(1.0, color=GREY, linewidth=1.2, linestyle="--")
    # without step 0, as in the table
    axes.plot(run["steps"][1:], floats(run["ratio"][1:]), color=BLUE, linewidth=1.6)
    axes.set(ylim=(0, 1.5), yticks=[0, 0.5, 1, 1.5])
    axes.set_title(title, fontsize=12.5, fontweight="bold", loc="left", pad=18)
    axes.text(0, 1.04, run["settings"], transform=axes.transAxes, fontsize=9.5, color=GREY)
    reached = run["reached"] is not None
    words = f"median {run['median']:.2f}" if reached else f"at most {run['highest']:.2f}"
    axes.text(0.97, 0.06, words, transform=axes.transAxes, fontsize=10.5, ha="right")


def floats(values: list[float | None]) -> np.ndarray:
    """As an array, nan for None."""
    return np.array(values, dtype=np.float64)


def main() -> None:
    """Train unless asked not to, write the numbers and the picture, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--redraw", action="store_true", help="draw edges.json, train nothing")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("edges.png"))
    chosen = parser.parse_args()
    numbers = chosen.out.with_suffix(".json")
    if not chosen.redraw:
        batch = whole_data_set()
        warnings.filterwarnings("ignore", "curvwatch: the Trainer has no logger")
        with quiet(), progress_bar(Console()) as progress:
            runs = {run.title: trained(run, batch, progress) for run in RUNS}
        lines = [f"{json.dumps(title)}: {json.dumps(run)}" for title, run in runs.items()]
        numbers.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    runs = json.loads(numbers.read_text())
    print(table(runs))
    drawn(runs).savefig(chosen.out, dpi=110)
    print(f"\nwrote {chosen.out}, {chosen.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
