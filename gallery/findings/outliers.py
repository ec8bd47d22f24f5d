"""Bulk and outliers: as many eigenvalues stand out as there are classes."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.progress import Progress

from curvwatch import CurvatureMonitor, Objective
from curvwatch.measures import SpectralDensity
from curvwatch.operators import hessian
from curvwatch.solvers import deflated_lanczos
from gallery.figures import BLUE, GREY, ORANGE, RED, band, panels
from gallery.finding import Check, Finding, Results
from gallery.training import (
    Shuffled,
    Training,
    cross_entropy,
    digits,
    readings,
    relu_mlp,
    rounded,
    train,
)

CLASSES, STEPS, EVERY, SHOWN = 10, 4000, 200, 40


def run(progress: Progress) -> Results:
    """Train to the end, reading the spectrum of the whole data set's loss."""
    data = digits()
    torch.manual_seed(0)
    net = relu_mlp()
    monitor = CurvatureMonitor(
        [SpectralDensity(probes=6, steps=40)],
        every_n_steps=EVERY,
        probe=[data],
        on_error="raise",
    )
    module = Training(
        net,
        cross_entropy,
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=5e-4),
    )
    train(
        module,
        Shuffled(data, 64),
        steps=STEPS + 1,
        callbacks=[monitor],
        progress=progress,
        label="digits",
    )
    history = monitor.history
    results: Results = {
        "steps": history["curvature/outliers"].steps.tolist(),
        **readings(history, "outliers", "outliers_error", "bulk_edge", "condition_number_bulk"),
        **readings(history, "negative_curvature", "negative_curvature_error"),
        **readings(history, "lambda_min", "lambda_min_residual"),
    }
    objective = Objective.of_batches(net, lambda b: cross_entropy(net(b[0]), b[1]), [data])
    with objective.open() as opened, torch.random.fork_rng():
        point = opened.linearize()
        pairs = deflated_lanczos(
            hessian(point), k=SHOWN, rtol=1e-3, generator=torch.Generator().manual_seed(0)
        )
        results["loss"] = float(f"{point.loss:.4g}")
    results["leading"] = rounded(pairs.values)
    with torch.no_grad():
        wrong = (net(data[0]).argmax(1) != data[1]).float().mean()
    results["training_error"] = float(wrong)
    return results


def draw(results: Results) -> Figure:
    """The leading eigenvalues at the end; outliers over time; negative curvature over time."""
    figure, (ranks, counts, negative) = panels(3)
    leading, count = np.array(results["leading"]), int(results["outliers"][-1])
    places = np.arange(1, len(leading) + 1)
    ranks.semilogy(places[:count], leading[:count], "o", color=RED, label=f"{count} outliers")
    ranks.semilogy(places[count:], leading[count:], "o", color=BLUE, label="bulk")
    ranks.axhline(results["bulk_edge"][-1], color=GREY, linestyle="--", linewidth=1)
    ranks.set(title="Leading eigenvalues at the end", xlabel="rank", ylabel="eigenvalue")
    ranks.legend()
    steps = results["steps"]
    counts.axhspan(CLASSES - 2, CLASSES + 2, color="0.93")
    counts.axhline(CLASSES, color=GREY, linestyle="--", linewidth=1, label="classes")
    band(counts, steps, results["outliers"], results["outliers_error"], color=RED, label="outliers")
    counts.set(title="Outliers over training", xlabel="optimizer step", ylim=(0, 25))
    counts.legend()
    band(
        negative,
        steps,
        results["negative_curvature"],
        results["negative_curvature_error"],
        color=ORANGE,
        label="negative share of all curvature",
    )
    negative.set(title="Negative curvature dies out", xlabel="optimizer step", ylim=(0, None))
    negative.legend()
    return figure


def checks(results: Results) -> list[Check]:
    """Counts at the end, and negative curvature at both ends."""
    count, error = results["outliers"][-1], results["outliers_error"][-1]
    negative = results["negative_curvature"]
    tenth = results["steps"].index(STEPS // 10)
    last = negative[-10:]
    return [
        Check(
            f"at the end about as many outliers as classes, {CLASSES} +- 2",
            f"{count:.0f} +- {error:.0f}",
            abs(count - CLASSES) <= 2,
        ),
        Check(
            "the largest eigenvalue is several times the edge of the bulk",
            f"{results['condition_number_bulk'][-1]:.1f} times",
            results["condition_number_bulk"][-1] > 3,
        ),
        Check(
            "negative curvature dies out early: under half of its share at the start within a tenth of "
            "the steps",
            f"{negative[0]:.2f} at the start, {negative[1]:.2f} at step {results['steps'][1]}, "
            f"{negative[tenth]:.2f} at step {results['steps'][tenth]}",
            negative[tenth] < negative[0] / 2,
        ),
        Check(
            "in the end little is left: under a tenth of all curvature, median of the last "
            f"{len(last)} readings",
            f"{np.median(last):.3f}, {min(last):.3f} to {max(last):.3f}; "
            f"the last one {last[-1]:.3f} +- {results['negative_curvature_error'][-1]:.3f}",
            float(np.median(last)) < 0.1,
        ),
    ]


def reading(results: Results) -> str:
    """How outliers are found, and when they can be."""
    count, error = results["outliers"][-1], results["outliers_error"][-1]
    beside = ""
    if abs(count - CLASSES) > error:
        beside = (
            f"There are {count:.0f}, which is near to {CLASSES} and off it by more than the error: "
            "the claim is of about as many, not of as many. "
        )
    return (
        f"{beside}Outliers are found by the scree test of the 30 largest eigenvalues: two "
        "lines through their logarithms over their ranks, and the break between them. The band is the "
        "measure's own error. How clear the break is depends on network and data: the same network on "
        "standardised pixels, or with tanh and no weight decay, has a spectrum that falls "
        "smoothly, and the error says so."
    )


FINDING = Finding(
    name="outliers",
    title="The spectrum is a bulk with about as many outliers as classes",
    claim="Most eigenvalues of the Hessian of a trained classifier lie in a bulk near zero, and about "
    "as many as there are classes stand above it; negative curvature is there at the start "
    "and dies out "
    "early in training.",
    source="Sagun et al. 2017, arXiv:1706.04454; Papyan 2018, arXiv:1811.07062; Ghorbani, Krishnan & "
    "Xiao 2019, arXiv:1901.10159.",
    setting="An MLP 64-50-50-10 with ReLU on scikit-learn's 1797 handwritten digits, cross-entropy, "
    f"SGD with momentum (lr .05, batches of 64, weight decay 5e-4) for {STEPS} steps, 143 epochs; "
    f"`SpectralDensity` on the whole data set every {EVERY} steps.",
    run=run,
    draw=draw,
    checks=checks,
    reading=reading,
    alt="Leading eigenvalues with outliers marked, number of outliers over time, share of negative "
    "curvature over time",
)
