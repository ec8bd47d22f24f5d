"""Layers of a CNN are alike, those of a transformer are not."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.progress import Progress
from torch import nn

from curvwatch import CurvatureMonitor
from curvwatch.measures import LayerCurvature
from gallery.figures import BLUE, GREY, RED, panels
from gallery.finding import Check, Finding, Results
from gallery.text import Text, Transformer
from gallery.training import Batch, Shuffled, Training, cross_entropy, digits, floats, rounded, train

STEPS, EVERY, VECTORS = 600, 300, 4
CNN, GPT = "CNN", "transformer"
COLOURS = {CNN: BLUE, GPT: RED}
ATTENTION = ("query", "key")


def cnn() -> nn.Sequential:
    """Four convolutions and two dense layers for images of 8x8."""

    def conv(before: int, after: int) -> nn.Conv2d:
        return nn.Conv2d(before, after, 3, padding=1)

    return nn.Sequential(
        OrderedDict(
            conv1=conv(1, 16),
            relu1=nn.ReLU(),
            conv2=conv(16, 32),
            relu2=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv3=conv(32, 32),
            relu3=nn.ReLU(),
            conv4=conv(32, 32),
            relu4=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flat=nn.Flatten(),
            dense1=nn.Linear(128, 64),
            relu5=nn.ReLU(),
            dense2=nn.Linear(64, 10),
        )
    )


def weights(name: str) -> str | None:
    """The layer of a weight; biases and norms belong to none."""
    if name.endswith("bias") or "norm" in name:
        return None
    return name.removeprefix("net.").removesuffix(".weight")


def run(progress: Progress) -> Results:
    """Train both with Adam, reading the blocks of the Hessian before, halfway and at the end."""
    x, y = digits()
    images, text = (x.view(-1, 1, 8, 8), y), Text()
    some = next(iter(Shuffled(images, 256, seed=1)))
    return {
        CNN: _trained(CNN, cnn, Shuffled(images, 64), some, progress),
        GPT: _trained(
            GPT, lambda: Transformer(len(text.alphabet)), text, next(iter(Text(size=8))), progress
        ),
    }


def _trained(
    name: str, make: Any, batches: Iterable[Batch], probe: Batch, progress: Progress
) -> dict[str, Any]:
    torch.manual_seed(0)
    measure = LayerCurvature(by=weights, density_probes=VECTORS)
    monitor = CurvatureMonitor(
        [measure], every_n_steps=EVERY, probe=[probe], alerts="off", on_error="raise"
    )
    module = Training(make(), cross_entropy, lambda p: torch.optim.Adam(p, lr=1e-3))
    train(module, batches, steps=STEPS + 1, callbacks=[monitor], progress=progress, label=name)
    history = monitor.history
    distance = history["curvature/layer_heterogeneity"]
    of_layer = {
        metric.split("/")[2]: rounded(history[metric].values)
        for metric in history
        if metric.endswith("/sharpness")
    }
    return {
        "steps": distance.steps.tolist(),
        "heterogeneity": rounded(distance.values),
        "heterogeneity_stderr": rounded(history["curvature/layer_heterogeneity_stderr"].values),
        "residual": rounded(history["curvature/layer_residual"].values),
        "sharpness": of_layer,
    }


def spread(run: dict[str, Any], at: int) -> float:
    """Largest over smallest sharpness of a layer, at a reading."""
    values = [of_layer[at] for of_layer in run["sharpness"].values()]
    return float(max(values) / min(values))


def draw(results: Results) -> Figure:
    """Sharpness of each layer before and after, and the distance of the densities over time."""
    figure, (*dots, distances) = panels(3)
    for axes, (name, one) in zip(dots, results.items(), strict=True):
        layers = list(one["sharpness"])
        places = np.arange(len(layers))[::-1]
        for at, colour, label in ((0, GREY, "at the start"), (-1, COLOURS[name], "trained")):
            values = [one["sharpness"][layer][at] for layer in layers]
            axes.semilogx(values, places, "o", color=colour, label=label)
        axes.set_yticks(places, layers, fontsize=8)
        axes.set(title=f"{name}: sharpness of layers", xlabel="largest eigenvalue", xlim=(3e-6, 1000))
        axes.legend(loc="lower left", fontsize=8)
    for name, one in results.items():
        distances.errorbar(
            one["steps"],
            floats(one["heterogeneity"]),
            floats(one["heterogeneity_stderr"]),
            color=COLOURS[name],
            linewidth=1.8,
            marker="o",
            capsize=3,
            label=name,
        )
    distances.set(title="Distance of the normalised densities", xlabel="optimizer step")
    distances.set(ylabel="mean Jensen-Shannon distance", ylim=(0, None))
    distances.legend()
    return figure


def checks(results: Results) -> list[Check]:
    """The distance as it is, and the scale of layers, before and after training."""
    found, net, text = [], results[CNN], results[GPT]
    for at, when in ((0, "at the start"), (-1, "after training")):
        mine, other = (one["heterogeneity"][at] for one in (text, net))
        errors = [one["heterogeneity_stderr"][at] for one in (text, net)]
        found.append(
            Check(
                f"{when} the normalised densities of layers are twice as far apart in the transformer, "
                "or more",
                f"{mine:.3f} +- {errors[0]:.3f}, {other:.3f} +- {errors[1]:.3f} in the CNN",
                mine > 2 * other,
                expected=False,
            )
        )
    for at, when in ((0, "at the start"), (-1, "after training")):
        mine, other = spread(text, at), spread(net, at)
        found.append(
            Check(
                f"{when} the sharpness of layers spreads ten times as wide in the transformer, or more",
                f"by a factor of {mine:.2g}, and {other:.2g} in the CNN",
                mine > 10 * other,
            )
        )
    start = {layer: values[0] for layer, values in text["sharpness"].items()}
    flat = max(v for layer, v in start.items() if layer.endswith(ATTENTION))
    least = min(v for layer, v in start.items() if layer.endswith("value"))
    found.append(
        Check(
            "queries and keys are of another kind than values: at the start each is ten times flatter "
            "or more",
            f"at most {flat:.2g}, and values at least {least:.2g}",
            least > 10 * flat,
        )
    )
    return found


def reading(results: Results) -> str:
    """Shape, and scale."""
    net, text = (results[name]["heterogeneity"] for name in (CNN, GPT))
    return (
        "The distance is one of shapes: `LayerCurvature` divides each spectrum by its largest "
        "size; the paper's figures divide by the tenth largest eigenvalue. In shape the "
        "transformer's layers are "
        f"{text[0] / net[0]:.1f} times as far apart as the CNN's at the start, and "
        f"{text[-1] / net[-1]:.1f} times after {STEPS} steps. In scale they are apart by orders of "
        "magnitude, which one learning rate for all has to bear; the sharpness of layers was "
        "looked at second, after distances that left eigenvalues as they are and showed nothing, "
        "since on shared bins all but the sharpest layers lie in a few. How large a distance "
        "comes out depends on how wide eigenvalues are spread, 1 % of the range here and a fixed "
        "width in the paper's code, so that numbers of the paper do not compare. Both networks "
        "are tiny; the paper's are VGG, ResNet, BERT and GPT-2."
    )


FINDING = Finding(
    name="layers",
    title="Layers of a transformer are unlike, above all in scale",
    claim="The spectra of the Hessian's blocks, one for each layer, are alike in a CNN and differ "
    "dramatically in a transformer, from the start; which is why one learning rate for all, as in SGD, "
    "does badly there.",
    source='Zhang et al. 2024, arXiv:2402.16788, "Why transformers need Adam". It measures the '
    "Jensen-Shannon distance of the blocks' spectra, averaged over pairs.",
    setting="A CNN (four 3x3 convolutions, two dense layers) on scikit-learn's digits, and a causal "
    "transformer (2 blocks of width 64) on the characters of the manual of Python in its standard "
    f"library, both with Adam (lr 1e-3) for {STEPS} steps; `LayerCurvature` of the weight matrices "
    f"(no biases, no norms), {VECTORS} random vectors for each density, on 256 images and 8 x 64 "
    f"characters, every {EVERY} steps.",
    run=run,
    draw=draw,
    checks=checks,
    reading=reading,
    alt="Sharpness of each layer of a CNN and of a transformer before and after training, and the "
    "distance of the layers' densities over training",
)
