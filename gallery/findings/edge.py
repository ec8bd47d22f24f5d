"""The edge of stability: full-batch training stops getting sharper at its optimizer's own edge."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.progress import Progress
from torch import Tensor, optim
from torch.optim import Optimizer

from curvwatch import CurvatureMonitor
from gallery.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, panels
from gallery.finding import Check, Finding, Results
from gallery.training import (
    Loss,
    Training,
    Whole,
    cross_entropy,
    floats,
    half_squared_error,
    readings,
    rounded,
    standardised_digits,
    tanh_mlp,
    train,
)

STEPS, EVERY, REACHED = 1600, 20, 0.95


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        settings: for people.
        colour: of its lines.
        optimizer: from the parameters to their optimizer.
        loss: of outputs and classes.
    """

    settings: str
    colour: str
    optimizer: Callable[[Iterable[Tensor]], Optimizer]
    loss: Loss = half_squared_error


# learning rates at which each comes to its edge well before the end
PLAIN = {
    "GD": Run("lr .2", BLUE, lambda p: optim.SGD(p, lr=0.2)),
    "heavy ball": Run("momentum .9, lr .2", ORANGE, lambda p: optim.SGD(p, lr=0.2, momentum=0.9)),
    "Nesterov": Run(
        "momentum .9, lr .1", GREEN, lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True)
    ),
}
ADAPTIVE = {
    "Adam": Run("lr 1e-3, eps 1e-7", RED, lambda p: optim.Adam(p, lr=1e-3, eps=1e-7)),
    "AdamW": Run(
        "lr 1e-3, eps 1e-7, decay .1",
        PURPLE,
        lambda p: optim.AdamW(p, lr=1e-3, eps=1e-7, weight_decay=0.1),
    ),
    "RMSprop": Run("lr 5e-4", SKY, lambda p: optim.RMSprop(p, lr=5e-4, alpha=0.99)),
}
CONTROL = "GD on cross-entropy"
RUNS = {
    **PLAIN,
    **ADAPTIVE,
    CONTROL: Run("lr .5", GREY, lambda p: optim.SGD(p, lr=0.5), cross_entropy),
}


def run(progress: Progress) -> Results:
    """Train each from the same weights on the whole data set, with the monitor's first measure."""
    data, results = standardised_digits(), {}
    for name, chosen in RUNS.items():
        torch.manual_seed(0)
        monitor = CurvatureMonitor(["sharpness"], every_n_steps=EVERY, on_error="raise")
        module = Training(tanh_mlp(), chosen.loss, chosen.optimizer)
        train(module, Whole(data), steps=STEPS + 1, callbacks=[monitor], progress=progress, label=name)
        history = monitor.history
        results[name] = {
            "steps": history["curvature/stability_ratio"].steps.tolist(),
            "edge": float(f"{history.latest('curvature/edge'):.4g}"),
            "effective_edge": float(f"{history.latest('curvature/effective_edge'):.4g}"),
            "ratio": rounded(history["curvature/stability_ratio"].values),
            **readings(history, "sharpness", "loss"),
            "largest_residual": float(f"{history['curvature/residual'].values.max():.2g}"),
        }
    return results


def after_edge(run: dict[str, Any]) -> np.ndarray:
    """Readings after the one that passes .95 first; an adaptive P is of one gradient at step 0."""
    ratios = floats(run["ratio"])
    passed = np.flatnonzero((ratios > REACHED) & (np.arange(len(ratios)) > 0))
    return np.arange(passed[0] + 1, len(ratios)) if len(passed) else np.array([], dtype=int)


def draw(results: Results) -> Figure:
    """Ratios to the edge above, plain sharpness below; SGD's family left, the adaptive one right."""
    figure, (plain, adaptive, sharp_plain, sharp_adaptive) = panels(2, 2)
    for axes, names in ((plain, [*PLAIN, CONTROL]), (adaptive, [*ADAPTIVE])):
        axes.axhline(1.0, color=GREY, linestyle="--", linewidth=1)
        for name in names:
            _line(axes, results[name], "ratio", name)
        axes.set(xlabel="optimizer step", ylim=(0, 1.4), ylabel="effective sharpness / edge")
        axes.legend(ncols=2, loc="lower right" if axes is adaptive else "best")
    plain.set_title("SGD's family: the edge is in plain sharpness")
    adaptive.set_title("Adaptive: the edge is in preconditioned sharpness")
    for name in PLAIN:
        _line(sharp_plain, results[name], "sharpness", name)
        edge = results[name]["effective_edge"]
        sharp_plain.axhline(edge, color=PLAIN[name].colour, linestyle="--", linewidth=1)
    sharp_plain.set(title="Plain sharpness, and each one's edge (dashed)", ylim=(0, 23))
    for name in ADAPTIVE:
        _line(sharp_adaptive, results[name], "sharpness", name)
    sharp_adaptive.set(title="Plain sharpness goes on rising", ylim=(0, None))
    for axes in (sharp_plain, sharp_adaptive):
        axes.set(xlabel="optimizer step", ylabel="largest eigenvalue of H")
        axes.legend()
    return figure


def _line(axes: Axes, run: dict[str, Any], what: str, name: str) -> None:
    # step 0 is left out, as in the checks
    style = "-" if name != CONTROL else ":"
    axes.plot(
        run["steps"][1:],
        floats(run[what])[1:],
        color=RUNS[name].colour,
        linestyle=style,
        linewidth=1.8,
        label=name,
    )


def checks(results: Results) -> list[Check]:
    """Where each levels off, what plain sharpness does meanwhile, and the control."""
    found = []
    for name in (*PLAIN, "Adam", "AdamW"):
        ratios = floats(results[name]["ratio"])[after_edge(results[name])]
        found.append(_levels_off(name, ratios))
    above = floats(results["RMSprop"]["ratio"])[after_edge(results["RMSprop"])]
    found.append(
        Check(
            "RMSprop stays above its edge, in every reading",
            f"{_span(above)}",
            len(above) > 0 and bool((above > 1).all()),
        )
    )
    for name, rises in (("GD", False), ("Adam", True)):
        sharpness, at = floats(results[name]["sharpness"]), after_edge(results[name])
        factor = float(np.median(sharpness[-10:]) / np.median(sharpness[at[:10]]))
        words = "goes on rising: by over 10 %" if rises else "stays: within 10 %"
        found.append(
            Check(
                f"once {name} is at its edge, its plain sharpness {words}",
                f"times {factor:.2f}, medians of the first and the last ten readings there",
                factor > 1.1 if rises else abs(factor - 1) < 0.1,
            )
        )
    loss, at = floats(results["GD"]["loss"]), after_edge(results["GD"])
    ups = int((np.diff(loss[at]) > 0).sum())
    found.append(
        Check(
            "at the edge GD's loss goes up and down from reading to reading, and falls all the same",
            f"it rises in {ups} of {len(at) - 1} readings; {loss[at[0]]:.3g} becomes {loss[-1]:.3g}",
            ups > 0 and loss[-1] < loss[at[0]],
        )
    )
    control = floats(results[CONTROL]["ratio"])[1:]
    found.append(
        Check(
            "on cross-entropy GD may never come to its edge: sharpness falls as the loss does",
            f"ratio at most {control.max():.2f}, {control[-1]:.3f} at the end",
            control.max() < REACHED and control[-1] < control.max() / 2,
        )
    )
    return found


def _levels_off(name: str, ratios: np.ndarray) -> Check:
    return Check(
        f"{name} levels off at its edge: ratio within 10 % of 1, median",
        _span(ratios),
        len(ratios) > 0 and abs(float(np.median(ratios)) - 1) < 0.1,
    )


def _span(ratios: np.ndarray) -> str:
    if not len(ratios):
        return "it did not come there"
    return f"median {np.median(ratios):.3f}, {ratios.min():.2f} to {ratios.max():.2f}"


def reading(results: Results) -> str:
    """Whence a run is at its edge, and the exception."""
    return (
        f"A run has come to its edge with the first reading over {REACHED} after step 0; what is "
        "said of a ratio is of the readings after it. [docs/stability.md](../stability.md) has "
        "twelve optimizers, what a ratio over 1 means, and who else saw RMSprop ride above its "
        "edge; a likely reason, not a proven one, is that the oscillation "
        "feeds its preconditioner, which the law holds still. The control shows that an edge is "
        "no law of training: with cross-entropy and this learning rate the curvature vanishes "
        "with the loss before the edge is reached."
    )


FINDING = Finding(
    name="edge",
    title="Full-batch training stops getting sharper at its optimizer's own edge",
    claim="Sharpness rises until the steps would no longer settle, and then hovers there: at 2/lr for "
    "gradient descent, 2(1+m)/lr with momentum m, 2(1+m)/((1+2m) lr) for Nesterov; for Adam it is the "
    "preconditioned sharpness, which hovers at 38/lr (with b1 = .9) while plain sharpness goes on "
    "rising.",
    source="Cohen et al. 2021, arXiv:2103.00065 (gradient descent and momentum; cross-entropy); Cohen "
    "et al. 2022, arXiv:2207.14484 (Adam). The formulas are derived in "
    "[docs/stability.md](../stability.md).",
    setting="A tanh MLP 64-100-100-10 on scikit-learn's 1797 handwritten digits, all of them at each "
    "step, half the squared error, from the same weights with each optimizer ("
    + "; ".join(f"{name}: {chosen.settings}" for name, chosen in RUNS.items())
    + f"); {STEPS} steps, `Sharpness` every {EVERY}. `curvature/stability_ratio` is what is above.",
    run=run,
    draw=draw,
    checks=checks,
    reading=reading,
    alt="Ratio of sharpness to the edge for seven runs, and their plain sharpness, over the steps",
)
