"""Critical sharpness, by forward passes alone, shows the edge once the steps have reached it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.progress import Progress
from torch import optim

from curvwatch import CurvatureMonitor
from curvwatch.measures import CriticalSharpness
from gallery.figures import BLUE, GREEN, GREY, RED, panels
from gallery.finding import Check, Finding, Results
from gallery.training import (
    Training,
    Whole,
    floats,
    half_squared_error,
    readings,
    standardised_digits,
    tanh_mlp,
    train,
)

STEPS, EVERY, LOW, HIGH = 1000, 10, 1 / 3, 0.9
OPTIMIZERS = {
    "GD": lambda p: optim.SGD(p, lr=0.2),
    "Adam": lambda p: optim.Adam(p, lr=1e-3, eps=1e-7),
}
COLOURS = {"stability_ratio": BLUE, "critical_ratio": RED}
LABELS = {
    "stability_ratio": "effective sharpness / edge",
    "critical_ratio": "lr / critical lr",
}


def run(progress: Progress) -> Results:
    """Train on the whole data set up to the edge and along it, reading both."""
    data, results = standardised_digits(), {}
    for name, optimizer in OPTIMIZERS.items():
        torch.manual_seed(0)
        monitor = CurvatureMonitor(
            ["sharpness", CriticalSharpness()],
            every_n_steps=EVERY,
            probe=[data],
            alerts="off",
            on_error="raise",
        )
        module = Training(tanh_mlp(), half_squared_error, optimizer)
        train(module, Whole(data), steps=STEPS + 1, callbacks=[monitor], progress=progress, label=name)
        history = monitor.history
        results[name] = {
            "steps": history["curvature/sharpness"].steps.tolist(),
            **readings(history, "sharpness", "stability_ratio", "critical_sharpness"),
            **readings(history, "critical_ratio", "critical_sharpness_error", "critical_forwards"),
        }
    return results


def first_over(run: dict[str, Any], what: str, level: float) -> float:
    """The step of the first reading over `level`, without that of step 0; nan where there is none."""
    over = floats(run[what])[1:] > level
    return float(run["steps"][1:][int(over.argmax())]) if over.any() else float("nan")


def at_edge(run: dict[str, Any]) -> np.ndarray:
    """The critical ratio from 100 steps after the stability ratio has passed 1."""
    since = first_over(run, "stability_ratio", 1.0) + 100
    values: np.ndarray = floats(run["critical_ratio"])[np.array(run["steps"]) >= since]
    return values


def draw(results: Results) -> Figure:
    """Both ratios over the steps of each optimizer, and the two sharpnesses of gradient descent."""
    figure, (*ratios, sharp) = panels(3)
    for axes, (name, one) in zip(ratios, results.items(), strict=True):
        axes.axhline(1.0, color=GREY, linestyle="--", linewidth=1)
        for what, label in LABELS.items():
            values = floats(one[what])[1:]
            axes.plot(one["steps"][1:], values, color=COLOURS[what], linewidth=1.6, label=label)
        axes.set(title=f"{name}: how near the edge", xlabel="optimizer step", ylim=(0, 1.5))
        axes.legend(loc="upper left")
    one = results["GD"]
    for what, colour, label in (
        ("sharpness", BLUE, "sharpness"),
        ("critical_sharpness", GREEN, "critical sharpness"),
    ):
        sharp.semilogy(one["steps"], floats(one[what]), color=colour, linewidth=1.6, label=label)
    sharp.axhline(10, color=GREY, linestyle="--", linewidth=1, label="2/lr")
    sharp.set(title="GD: sharpness and critical sharpness", xlabel="optimizer step", ylim=(3e-3, 200))
    sharp.legend(loc="upper left")
    return figure


def checks(results: Results) -> list[Check]:
    """Where both are at the edge, and which of them is there first."""
    found = []
    for name, one in results.items():
        early = first_over(one, "stability_ratio", HIGH)
        steps = np.array(one["steps"])
        ratio = floats(one["critical_ratio"])
        before = ratio[(steps >= early - 50) & (steps < early)]
        found.append(
            Check(
                f"{name}: while the stability ratio comes to {HIGH}, the critical ratio is still under "
                "a third",
                f"median {np.nanmedian(before):.2g} in the 50 steps before step {early:.0f}",
                bool(np.nanmedian(before) < LOW),
            )
        )
        rises = {what: first_over(one, what, HIGH) - first_over(one, what, LOW) for what in COLOURS}
        found.append(
            Check(
                f"{name}: critical sharpness jumps: from a third of the edge to {HIGH} of it in a "
                "quarter of the steps that the stability ratio takes, or less",
                f"{rises['critical_ratio']:.0f} steps and {rises['stability_ratio']:.0f}",
                rises["critical_ratio"] <= rises["stability_ratio"] / 4,
                expected=name == "GD",
            )
        )
        level = float(np.nanmedian(at_edge(one)))
        found.append(
            Check(
                f"{name}: at the edge the critical ratio is at 1, within 20 %, median of what follows "
                "100 steps after the stability ratio has passed 1",
                f"{level:.2f}",
                abs(level - 1) < 0.2,
                expected=name == "GD",
            )
        )
    for name, one in results.items():
        found.append(_sharpening(name, one))
    one = results["GD"]
    critical, sharpness = floats(one["critical_sharpness"]), floats(one["sharpness"])
    over = critical * (1 - floats(one["critical_sharpness_error"])) > sharpness * 1.05
    found.append(
        Check(
            "GD: it is not over sharpness, within its error and 5 %, in 9 of 10 readings",
            f"in {1 - over.mean():.0%}",
            bool(over.mean() <= 0.1),
        )
    )
    forwards = [float(np.mean(one["critical_forwards"][1:])) for one in results.values()]
    found.append(
        Check(
            "it takes fewer than 10 forward passes",
            ", ".join(f"{f:.1f} with {name}" for f, name in zip(forwards, results, strict=True)),
            max(forwards) < 10,
        )
    )
    return found


def _sharpening(name: str, run: dict[str, Any]) -> Check:
    steps, sharpness = np.array(run["steps"]), floats(run["critical_sharpness"])
    ends = [int(first_over(run, "stability_ratio", level)) for level in (LOW, HIGH)]
    low, high = (float(np.nanmedian(sharpness[abs(steps - end) <= 50])) for end in ends)
    return Check(
        f"{name}: before the edge it shows progressive sharpening: it rises while the stability ratio "
        f"goes from a third to {HIGH}",
        f"{low:.2g} and {high:.2g}, medians of the readings within 50 steps",
        high > low,
        expected=False,
    )


def reading(results: Results) -> str:
    """What the two are good for."""
    shares = {name: float(np.mean(at_edge(one) > 0.5)) for name, one in results.items()}
    return (
        "The edge shows in critical sharpness, and for GD at the right place. The approach to it does "
        "not: on these runs, full-batch and without noise, steps avoid the sharp directions, and "
        "critical sharpness stays near zero until the oscillation along them sets in, after "
        "sharpness has passed its edge. And it comes and goes with the oscillation: at the edge "
        f"the critical ratio is over one half in {shares['GD']:.0%} of the readings with GD, and "
        f"in {shares['Adam']:.0%} with Adam, whose step is an average over past gradients, much of "
        "which is not along the direction that oscillates. So a high reading shows that a run is "
        "at its edge, a low one shows nothing, and no reading shows that the edge is near; the "
        "stability ratio shows all three, at the price of products with the Hessian. Batches, "
        "whose noise has a part along the sharp directions at all times, may well show "
        "sharpening earlier, as in the paper's language models; that is not tested here."
    )


FINDING = Finding(
    name="critical",
    title="Critical sharpness shows the edge late and costs little",
    claim="The learning rate at which the step itself would raise the loss is found by a handful of "
    "forward passes. 2 over it is a sharpness that shows progressive sharpening and the edge of "
    "stability as the largest eigenvalue of the Hessian does. It is curvature along the step, though, "
    "so it can follow the eigenvalue only where steps go along its direction: the stability ratio "
    "should rise early, and critical sharpness jump late.",
    source="Kalra et al. 2026, arXiv:2601.16979. That it jumps late follows from its being "
    "curvature along the step.",
    setting="The tanh MLP 64-100-100-10 on scikit-learn's digits, all 1797 at each step, half the "
    f"squared error, GD (lr .2) and Adam (lr 1e-3, eps 1e-7), {STEPS} steps; `Sharpness` and "
    f"`CriticalSharpness` every {EVERY}.",
    run=run,
    draw=draw,
    checks=checks,
    reading=reading,
    alt="Stability ratio and critical ratio of gradient descent and Adam over the steps, and sharpness "
    "with critical sharpness of gradient descent",
)
