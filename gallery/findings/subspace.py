"""Gradient descent happens in a tiny subspace: the gradient lies in the top eigenspace."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.progress import Progress

from curvwatch import CurvatureMonitor
from curvwatch.measures import GradientSubspace
from gallery.figures import BLUE, GREEN, GREY, ORANGE, RED, panels
from gallery.finding import Check, Finding, Results
from gallery.training import (
    Shuffled,
    Training,
    cross_entropy,
    digits,
    floats,
    readings,
    relu_mlp,
    train,
)

CLASSES, STEPS, EVERY, EPOCH = 10, 1120, 28, 28
NAMES = (
    *("subspace_gradient_share", "subspace_update_share", "subspace_overlap_last"),
    *("subspace_overlap_first", "subspace_error"),
)


def run(progress: Progress) -> Results:
    """Train, reading the top eigenspace of the whole data set's loss once an epoch."""
    data = digits()
    torch.manual_seed(0)
    monitor = CurvatureMonitor(
        [GradientSubspace(k=CLASSES)], every_n_steps=EVERY, probe=[data], on_error="raise"
    )
    net = relu_mlp()
    module = Training(net, cross_entropy, lambda p: torch.optim.SGD(p, lr=0.3))
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
        "weights": sum(p.numel() for p in net.parameters()),
        "epochs": [step / EPOCH for step in history[f"curvature/{NAMES[0]}"].steps.tolist()],
    }
    return results | readings(history, *NAMES)


def draw(results: Results) -> Figure:
    """Shares of gradient and update; overlaps of the space."""
    figure, (shares, overlaps) = panels(2)
    epochs = results["epochs"]
    shares.axhline(0.5, color=GREY, linestyle="--", linewidth=1)
    for name, colour, label in (
        ("subspace_gradient_share", BLUE, "of the gradient"),
        ("subspace_update_share", ORANGE, "of the update"),
    ):
        shares.plot(epochs, floats(results[name]), color=colour, linewidth=1.8, label=label)
    shares.set(title="Share in the top-10 eigenspace", xlabel="epoch", ylim=(0, 1.02))
    shares.legend()
    for name, colour, label in (
        ("subspace_overlap_last", GREEN, "with that of the epoch before"),
        ("subspace_overlap_first", RED, "with that at the start"),
    ):
        overlaps.plot(epochs, floats(results[name]), color=colour, linewidth=1.8, label=label)
    overlaps.set(title="Overlap of the eigenspace", xlabel="epoch", ylim=(0, 1.02))
    overlaps.legend()
    return figure


def checks(results: Results) -> list[Check]:
    """The share after the first epochs, and that the space stands still."""
    epochs, share = results["epochs"], floats(results["subspace_gradient_share"])
    later = [s for e, s in zip(epochs, share, strict=True) if e >= 5]
    overlap = floats(results["subspace_overlap_last"])[-10:]
    random = CLASSES / results["weights"]
    return [
        Check(
            "after the first epochs most of the gradient lies in the top-10 space, share over .5",
            f"median {sorted(later)[len(later) // 2]:.2f}, smallest {min(later):.2f} from epoch 5 on",
            min(later) > 0.5,
        ),
        Check(
            "a random space of this dimension would have next to nothing of it",
            f"10 of {results['weights']} dimensions: {random:.1e}",
            min(later) > 100 * random,
        ),
        Check(
            "the space changes slowly: overlap with the epoch before over .5",
            f"{min(overlap):.2f} to {max(overlap):.2f} over the last ten epochs",
            min(overlap) > 0.5,
        ),
        Check(
            "little of the space at the start is left",
            f"overlap {results['subspace_overlap_first'][-1]:.2f}",
            results["subspace_overlap_first"][-1] < 0.5,
        ),
    ]


def reading(results: Results) -> str:
    """The update beside it, and what does not follow."""
    gradient, update = (
        np.median(floats(results[f"subspace_{of}_share"])[-10:]) for of in ("gradient", "update")
    )
    return (
        f"The share of the update, {update:.2f} over the last ten epochs (median), is "
        f"{'lower' if update < gradient else 'no lower'} than that of the gradient, "
        f"{gradient:.2f}: the update is of one batch, whose noise has parts everywhere. That the "
        "gradient lies in the space does not say that learning happens there: Song, Ahn & Yun "
        "2024, arXiv:2405.16002, find that steps within it alone do not lower the loss."
    )


FINDING = Finding(
    name="subspace",
    title="The gradient lies in a tiny subspace",
    claim="After a short while most of the gradient lies in the space of the k leading eigenvectors of "
    "the Hessian, k the number of classes, and that space changes slowly.",
    source="Gur-Ari, Roberts & Dyer 2018, arXiv:1812.04754.",
    setting="An MLP 64-50-50-10 with ReLU on scikit-learn's 1797 handwritten digits, cross-entropy, "
    f"SGD without momentum (lr .3, batches of 64) for {STEPS // EPOCH} epochs; "
    f"`GradientSubspace(k=10)` on "
    "the whole data set once an epoch.",
    run=run,
    draw=draw,
    checks=checks,
    reading=reading,
    alt="Share of gradient and update in the top eigenspace, and overlap of the eigenspaces, by epoch",
)
