"""Adam's steps go along flatter directions than SGD's, and clipped coordinates make them flatter."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.progress import Progress
from torch import optim

from curvwatch import CurvatureMonitor
from curvwatch.measures import StepGeometry
from gallery.figures import BLUE, GREEN, GREY, ORANGE, RED, SKY, panels
from gallery.finding import Check, Finding, Results
from gallery.text import Text, Transformer
from gallery.training import Training, cross_entropy, floats, rounded, train

STEPS, EVERY, SIZE = 600, 20, 16
REFERENCE = "momentum"
# name of the compared optimizer: colour, for people
COMPARED = {
    REFERENCE: (BLUE, "SGD (momentum .9)"),
    "normalized_sgd": (SKY, "normalised SGD"),
    "clipped_sgd": (GREEN, "SGD, 10 % clipped"),
    "adam": (RED, "Adam"),
    "clipped_adam": (ORANGE, "Adam, 50 % clipped"),
}
MOVERS = {
    "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: optim.Adam(p, lr=1e-3),
}


def run(progress: Progress) -> Results:
    """Train with one optimizer, looking at the steps of all at the same points; with two of them."""
    data, results = Text(size=SIZE), {}
    for name, optimizer in MOVERS.items():
        torch.manual_seed(0)
        monitor = CurvatureMonitor(
            [StepGeometry(compare=list(COMPARED))], every_n_steps=EVERY, on_error="raise", alerts="off"
        )
        module = Training(Transformer(len(data.alphabet)), cross_entropy, optimizer)
        label = f"moved by {name}"
        train(module, data, steps=STEPS + 1, callbacks=[monitor], progress=progress, label=label)
        history = monitor.history
        found: dict[str, Any] = {
            "steps": history["step/directional_sharpness"].steps.tolist(),
        }
        for compared in COMPARED:
            for what in ("directional_sharpness", "gradient_correlation", "gradient_cosine"):
                found[f"{compared} {what}"] = rounded(history[f"step/{compared}/{what}"].values)
        results[name] = found
    return results


def ratios(run: dict[str, Any], name: str) -> np.ndarray:
    """Directional sharpness of `name` over that of SGD at the same points, without the first step."""
    of_name, of_sgd = (floats(run[f"{n} directional_sharpness"])[1:] for n in (name, REFERENCE))
    quotient: np.ndarray = of_name / of_sgd
    return quotient


def best_decrease(run: dict[str, Any], name: str) -> np.ndarray:
    """What the best length of a step lowers the loss by, to second order; nan along no upward curve."""
    slope = floats(run[f"{name} gradient_correlation"])[1:]
    curvature = floats(run[f"{name} directional_sharpness"])[1:]
    decrease: np.ndarray = np.where(curvature > 0, slope**2 / (2 * curvature), np.nan)
    return decrease


def draw(results: Results) -> Figure:
    """Sharpness relative to SGD's for both movers, and the slope of the steps."""
    figure, grid = panels(2, 2)
    for row, (mover, one) in zip((grid[:2], grid[2:]), results.items(), strict=True):
        sharpness, cosine = row
        sharpness.axhline(1.0, color=BLUE, linestyle="--", linewidth=1, label="SGD (momentum .9)")
        steps = one["steps"][1:]
        for name, (colour, label) in COMPARED.items():
            if name != REFERENCE:
                sharpness.semilogy(steps, ratios(one, name), color=colour, linewidth=1.8, label=label)
            values = -floats(one[f"{name} gradient_cosine"])[1:]
            cosine.plot(steps, values, color=colour, linewidth=1.8, label=label)
        sharpness.set(title=f"Directional sharpness over SGD's, moved by {mover}", ylim=(0.006, 4))
        sharpness.set(xlabel="optimizer step", ylabel="ratio at the same point")
        cosine.axhline(0.0, color=GREY, linestyle="--", linewidth=1)
        cosine.set(title=f"How far downhill, moved by {mover}", ylim=(-0.1, 1))
        cosine.set(xlabel="optimizer step", ylabel="cosine with minus the gradient")
    grid[0].legend(fontsize=8, ncols=2, loc="lower left")
    return figure


def checks(results: Results) -> list[Check]:
    """Adam against SGD, clipped against not, and what that is worth."""
    found = []
    for mover, one in results.items():
        median = float(np.median(ratios(one, "adam")))
        found.append(
            Check(
                f"moved by {mover}: Adam's directional sharpness is under half of SGD's, median",
                f"{median:.2f} of it",
                median < 0.5,
            )
        )
        for name, clipped in ((REFERENCE, "clipped_sgd"), ("adam", "clipped_adam")):
            quotient = ratios(one, clipped) / ratios(one, name)
            often = float((quotient < 1).mean())
            title = {REFERENCE: "SGD", "adam": "Adam"}[name]
            found.append(
                Check(
                    f"moved by {mover}: clipping makes {title} flatter, in 9 of 10 readings",
                    f"in {often:.0%}; {np.median(quotient):.2f} of it, median",
                    often >= 0.9,
                )
            )
        uphill = [
            name for name in COMPARED if np.median(floats(one[f"{name} gradient_cosine"])[1:]) >= 0
        ]
        found.append(
            Check(
                f"moved by {mover}: all go downhill, median",
                ", ".join(uphill) + " does not" if uphill else "all do",
                not uphill,
            )
        )
        gain = best_decrease(one, "adam") / best_decrease(one, REFERENCE)
        found.append(
            Check(
                f"moved by {mover}: the best step along Adam's direction lowers the loss more than "
                "along SGD's, median",
                f"{np.nanmedian(gain):.2f} times as much, to second order",
                float(np.nanmedian(gain)) > 1,
            )
        )
    return found


def reading(results: Results) -> str:
    """What a flat direction is worth."""
    return (
        "A random direction is flat, too, so look at the slope beside it. The last statement "
        "weighs one against the other: along a direction with slope s and curvature c the best "
        "step lowers the loss by s² / 2c, to second order. [docs/compared.md](../compared.md) "
        "says what is compared, and what it costs."
    )


FINDING = Finding(
    name="directional",
    title="Adam goes along flat directions",
    claim="At the same point, with the same gradients, the direction of Adam's step is much flatter "
    "than that of SGD's, which allows longer steps and lowers the loss more. A small share of the "
    "coordinates of the gradient makes SGD's direction sharp: where the largest are clipped, it is "
    "flatter, and Adam's with it.",
    source="Pan & Li 2023, arXiv:2306.00204.",
    setting="A causal transformer (2 blocks of width 64) on the characters of the manual of Python in "
    f"its standard library, sequences of 64 in batches of {SIZE}, {STEPS} steps; once moved by "
    "SGD (lr .1, momentum .9), once by Adam (lr 1e-3). `StepGeometry(compare=[...])` feeds the other "
    f"optimizers with the same gradients, and measures the steps that they would make, every {EVERY} "
    "steps.",
    run=run,
    draw=draw,
    checks=checks,
    reading=reading,
    alt="Directional sharpness of Adam, clipped Adam, clipped and normalised SGD over that of SGD, and "
    "cosines with the gradient, over the steps of two trainings",
)
