"""The edge of small batches: batch sharpness settles at 2/lr, and the whole loss stays flatter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.progress import Progress
from torch import optim

from curvwatch import CurvatureMonitor
from curvwatch.measures import BatchSharpness
from gallery.figures import BLUE, GREEN, GREY, ORANGE, RED, band, panels
from gallery.finding import Check, Finding, Results
from gallery.training import (
    Batch,
    Shuffled,
    Training,
    Whole,
    floats,
    half_squared_error,
    readings,
    standardised_digits,
    tanh_mlp,
    train,
)

RATE, EXAMPLES, TOLERANCE = 0.6, 1797, 0.2  # of the edge


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        size: of the batches.
        steps: of the training.
        every: cadence of the readings.
        colour: of its lines.
        rate: the learning rate.
        momentum: of SGD.
    """

    size: int
    steps: int
    every: int
    colour: str
    rate: float = RATE
    momentum: float = 0.0

    @property
    def edge(self) -> float:
        """The one that is claimed for batch sharpness: 2 (1 - m) / lr, 2 / lr without momentum."""
        return 2 * (1 - self.momentum) / self.rate


MOMENTUM, FASTER, FULL = "8, momentum .9, lr .06", "16, lr .8", "all"
SMALL = ("8", "16", "64")
RUNS = {
    "8": Run(8, 8000, 400, RED),
    "16": Run(16, 8000, 400, ORANGE),
    "64": Run(64, 6000, 300, GREEN),
    FULL: Run(EXAMPLES, 1500, 50, BLUE),
    MOMENTUM: Run(8, 8000, 400, GREY, rate=0.06, momentum=0.9),
    FASTER: Run(16, 8000, 400, GREY, rate=0.8),
}


def run(progress: Progress) -> Results:
    """Train with each size; batch sharpness over an epoch's batches, sharpness of the whole loss."""
    data, results = standardised_digits(), {}
    for name, chosen in RUNS.items():
        torch.manual_seed(0)
        of_batches = CurvatureMonitor(
            [BatchSharpness(interaction=False)],
            every_n_steps=chosen.every,
            probe=an_epoch(data, chosen.size),
            alerts="off",
            on_error="raise",
            name="batches",
        )
        of_all = CurvatureMonitor(
            ["sharpness"],
            every_n_steps=chosen.every,
            probe=[data],
            alerts="off",
            on_error="raise",
            name="all",
        )
        settings = {"lr": chosen.rate, "momentum": chosen.momentum}
        module = Training(tanh_mlp(), half_squared_error, lambda p, s=settings: optim.SGD(p, **s))
        train(
            module,
            Whole(data) if chosen.size == EXAMPLES else Shuffled(data, chosen.size),
            steps=chosen.steps + 1,
            callbacks=[of_batches, of_all],
            progress=progress,
            label=f"batches of {name}",
        )
        batches, whole = of_batches.history, of_all.history
        results[name] = {
            "steps": whole["curvature/sharpness"].steps.tolist(),
            "edge": float(f"{chosen.edge:.4g}"),
            **readings(batches, "batch_sharpness", "batch_sharpness_stderr"),
            **readings(whole, "sharpness", "loss"),
        }
    return results


def an_epoch(data: Batch, size: int) -> Sequence[Batch]:
    """Disjoint random batches of the size of training's; the last incomplete one is left out."""
    order = torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(1))
    parts = order[: EXAMPLES // size * size].split(size)
    return [(data[0][chosen], data[1][chosen]) for chosen in parts]


def of_edge(run: dict[str, Any], what: str) -> np.ndarray:
    """Values over the claimed edge."""
    values: np.ndarray = floats(run[what]) / run["edge"]
    return values


def late(run: dict[str, Any], what: str) -> float:
    """Median over the second half of the run, over the claimed edge."""
    values = of_edge(run, what)
    return float(np.median(values[len(values) // 2 :]))


def draw(results: Results) -> Figure:
    """Batch sharpness and sharpness over time, and where both level off for each batch size."""
    figure, (batches, whole, both) = panels(3)
    for axes, what in ((batches, "batch_sharpness"), (whole, "sharpness")):
        axes.axhline(1.0, color=GREY, linestyle="--", linewidth=1)
        for name in (*SMALL, FULL):
            one, colour = results[name], RUNS[name].colour
            done = np.array(one["steps"]) / one["steps"][-1]
            if what == "batch_sharpness" and name != FULL:
                error = floats(one["batch_sharpness_stderr"]) / one["edge"]
                band(axes, done, of_edge(one, what), error, color=colour, label=name)
            else:
                axes.plot(done, of_edge(one, what), color=colour, linewidth=1.8, label=name)
        axes.set(xlabel="share of the run", ylabel="sharpness x lr / 2", ylim=(0, 1.3))
    batches.set_title("Batch sharpness, by batch size")
    whole.set_title("Sharpness of the whole loss, by batch size")
    for axes in (batches, whole):
        axes.legend(title="batches of", ncols=2, loc="lower right")
    sizes = [RUNS[name].size for name in (*SMALL, FULL)]
    both.axhline(1.0, color=GREY, linestyle="--", linewidth=1)
    for what, marker, label in (
        ("batch_sharpness", "s", "batch sharpness"),
        ("sharpness", "o", "sharpness of the whole loss"),
    ):
        values = [late(results[name], what) for name in (*SMALL, FULL)]
        both.semilogx(sizes, values, "-", marker=marker, color=BLUE, label=label, linewidth=1.4)
        both.lines[-1].set(markerfacecolor=BLUE if marker == "s" else "white")
    for name, marker in ((MOMENTUM, "x"), (FASTER, "+")):
        value = late(results[name], "batch_sharpness")
        both.plot([RUNS[name].size], [value], marker, color=RED, markersize=9, label=f"{name}: batch")
    both.set(title="Second half of the run, medians", xlabel="batch size", ylim=(0, 1.3))
    both.set_ylabel("over the edge that is claimed")
    both.legend(loc="lower right")
    return figure


def checks(results: Results) -> list[Check]:
    """Levels of both, and their order."""
    found = []
    for name in SMALL:
        level = late(results[name], "batch_sharpness")
        found.append(
            Check(
                f"with batches of {name} batch sharpness levels off at 2/lr, within 20 %",
                f"{level:.2f} of it",
                abs(level - 1) < TOLERANCE,
                expected=name != "16",
            )
        )
    sharp = {name: late(results[name], "sharpness") for name in (*SMALL, FULL)}
    in_words = ", ".join(f"{name}: {value:.2f}" for name, value in sharp.items())
    found += [
        Check(
            "with full batches sharpness of the whole loss is at 2/lr, within 10 %",
            f"{sharp[FULL]:.2f} of it",
            abs(sharp[FULL] - 1) < 0.1,
        ),
        Check(
            "with each of the small batches it stays below 2/lr",
            ", ".join(f"{name}: {sharp[name]:.2f}" for name in SMALL),
            max(sharp[name] for name in SMALL) < 1,
        ),
        Check(
            "the smaller the batches, the flatter the whole loss",
            in_words,
            list(sharp.values()) == sorted(sharp.values()),
        ),
        Check(
            "batch sharpness is over sharpness of the whole loss, the more so the smaller the batches",
            ", ".join(
                f"{name}: {late(results[name], 'batch_sharpness') / sharp[name]:.2f} times"
                for name in SMALL
            ),
            _falls([late(results[name], "batch_sharpness") / sharp[name] for name in SMALL]),
            expected=False,
        ),
    ]
    for name, what in (
        (MOMENTUM, "with momentum m and batches of 8 it levels off at 2 (1 - m) / lr"),
        (FASTER, "batches of 16 with a larger lr, .8: batch sharpness levels off at 2/lr"),
    ):
        level = late(results[name], "batch_sharpness")
        found.append(Check(f"{what}, within 20 %", f"{level:.2f} of it", abs(level - 1) < TOLERANCE))
    return found


def _falls(quotients: list[float]) -> bool:
    return min(quotients) > 1 and quotients == sorted(quotients, reverse=True)


def reading(results: Results) -> str:
    """Where the claim ends."""
    sharp = {name: late(results[name], "sharpness") for name in SMALL}
    of_batches = {name: late(results[name], "batch_sharpness") for name in SMALL}
    below = [name for name in SMALL if of_batches[name] < sharp[name]]
    level, faster = of_batches["16"], late(results[FASTER], "batch_sharpness")
    losses = [results[name]["loss"][-1] for name in ("16", FASTER)]
    return (
        f"Batches of 16 say where the claim ends: with learning rate {RATE:g} batch sharpness stays at "
        f"{level:.2f} of its edge. With learning rate {RUNS[FASTER].rate:g}, whose edge is lower, the "
        f"same batches are at {faster:.2f} of it, with a batch sharpness that is no higher. Both fit "
        f"the data (losses of {losses[0]:.2g} and {losses[1]:.2g} in the end), and where the loss is "
        "next to nothing sharpness no longer rises: that may be what holds it below the edge, and two "
        "learning rates hardly distinguish that from an edge. "
        f"With batches of {' and '.join(below)} batch sharpness lies below the sharpness of the whole "
        "loss, which is not as the paper has it; perhaps because few batches still have a gradient "
        "along the sharpest direction once the fit is this good. Batch sharpness of all examples is "
        "the curvature along the gradient itself: at the edge of gradient descent it is at 1, where "
        "steps no longer lower the loss, and on the way there next to nothing, for after the first "
        "steps the gradient avoids the sharp directions."
    )


FINDING = Finding(
    name="batch_sharpness",
    title="SGD has an edge of its own: batch sharpness at 2/lr",
    claim="With small batches the sharpness of the whole loss stays below 2/lr, the more so the "
    "smaller they are. What settles at 2/lr is batch sharpness, the mean over batches of the curvature "
    "of a batch's own loss along its own gradient. With momentum m and small batches it settles at "
    "2(1-m)/lr.",
    source="Andreyev & Beneventano 2024, arXiv:2412.20553; Andreyev et al. 2026, arXiv:2604.14108 "
    "(momentum).",
    setting="The tanh MLP 64-100-100-10 on scikit-learn's digits, half the squared error, "
    f"SGD with lr {RATE}, batches of 8, 16 and 64 and all {EXAMPLES} examples, from the same weights; "
    "also batches of 8 with momentum .9 and lr .06, and of 16 with lr .8. Two monitors: "
    "`BatchSharpness` over an epoch's batches of the training size, `Sharpness` on all examples. "
    f"{RUNS['8'].steps} steps with batches of 8 and 16, {RUNS['64'].steps} with 64, "
    f"{RUNS[FULL].steps} with all. Levels are medians over the second half of a run.",
    run=run,
    draw=draw,
    checks=checks,
    reading=reading,
    alt="Batch sharpness and sharpness of the whole loss over training for four batch sizes, and the "
    "levels of both",
)
