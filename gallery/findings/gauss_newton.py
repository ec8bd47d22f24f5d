"""The Hessian, the Gauss-Newton matrix and two Fisher matrices over a training."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.progress import Progress

from curvwatch import CurvatureMonitor
from curvwatch.measures import Fisher, GaussNewton
from gallery.figures import BLUE, GREEN, GREY, ORANGE, RED, band, panels
from gallery.finding import Check, Finding, Results
from gallery.training import (
    Shuffled,
    Training,
    cross_entropy,
    digits,
    floats,
    readings,
    relu_mlp,
    rounded,
    train,
)

STEPS, EVERY, EPOCH, PROBES = 2016, 56, 28, 16
OF_G = (
    *("lambda_max", "distance", "distance_stderr", "rest_lambda_max", "trace", "trace_stderr"),
    *("lambda_max_residual", "rest_lambda_max_residual"),
)
OF_F = ("lambda_max", "trace", "trace_stderr", "cosine", "cosine_stderr")


def run(progress: Progress) -> Results:
    """Train, reading all matrices on the whole data set every second epoch."""
    data = digits()
    torch.manual_seed(0)
    options = {"every_n_steps": EVERY, "probe": [data], "alerts": "off", "on_error": "raise"}
    true = CurvatureMonitor(
        ["sharpness", GaussNewton(probes=PROBES, density_probes=0), Fisher("type1", probes=PROBES)],
        name="true",
        **options,
    )
    empirical = CurvatureMonitor([Fisher("empirical", probes=PROBES)], name="empirical", **options)
    module = Training(relu_mlp(), cross_entropy, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9))
    train(
        module,
        Shuffled(data, 64),
        steps=STEPS + 1,
        callbacks=[true, empirical],
        progress=progress,
        label="digits",
    )
    history = true.history
    results: Results = {
        "epochs": [step / EPOCH for step in history["curvature/sharpness"].steps.tolist()],
        **readings(history, "loss", "sharpness"),
    }
    for name in OF_G:
        results[f"G {name}"] = rounded(history[f"gauss_newton/{name}"].values)
    for kind, monitor in (("true", true), ("empirical", empirical)):
        for name in OF_F:
            results[f"{kind} {name}"] = rounded(monitor.history[f"fisher/{name}"].values)
    return results


def draw(results: Results) -> Figure:
    """Distance of H from G, leading eigenvalues, and cosines with the Fisher matrices."""
    figure, (distances, leading, cosines) = panels(3)
    epochs = results["epochs"]
    band(
        distances,
        epochs,
        results["G distance"],
        results["G distance_stderr"],
        color=BLUE,
        label="abs(H - G) / abs(H)",
    )
    distances.set(title="Distance of the Hessian from Gauss-Newton", xlabel="epoch", ylim=(0, 1))
    distances.legend()
    for name, colour, label, style in (
        ("sharpness", BLUE, "Hessian", "-"),
        ("G lambda_max", ORANGE, "Gauss-Newton", "--"),
        ("G rest_lambda_max", RED, "the rest, H - G", "-"),
        ("empirical lambda_max", GREY, "empirical Fisher", "-"),
    ):
        values = floats(results[name])
        leading.semilogy(epochs, values, style, color=colour, linewidth=1.8, label=label)
    leading.set(title="Largest eigenvalues", xlabel="epoch")
    leading.legend()
    for kind, colour in (("true", GREEN), ("empirical", GREY)):
        band(
            cosines,
            epochs,
            results[f"{kind} cosine"],
            results[f"{kind} cosine_stderr"],
            color=colour,
            label=f"with the {kind} Fisher matrix",
        )
    cosines.set(title="Cosine with the Hessian", xlabel="epoch", ylim=(0, 1.02))
    cosines.legend(loc="lower right")
    return figure


def checks(results: Results) -> list[Check]:
    """The distance, leading eigenvalues, and what the Fisher matrices are good for."""
    distance = floats(results["G distance"])
    H, G = floats(results["sharpness"]), floats(results["G lambda_max"])
    rest = floats(results["G rest_lambda_max"])
    true, empirical = (floats(results[f"{kind} cosine"]) for kind in ("true", "empirical"))
    fisher = floats(results["true lambda_max"])
    traces = results["empirical trace"][-1] / results["true trace"][-1]
    apart = float(np.abs(fisher / G - 1).max())
    return [
        Check(
            "the Hessian comes to Gauss-Newton as the fit improves: half the distance, or less",
            f"{distance[0]:.2f} at the start, {distance[-1]:.2f} at the end, "
            f"+- {results['G distance_stderr'][-1]:.2f}",
            distance[-1] < distance[0] / 2,
        ),
        Check(
            "its largest eigenvalue is that of Gauss-Newton, within 10 %, at the end",
            f"{H[-1]:.3g} and {G[-1]:.3g}",
            abs(G[-1] / H[-1] - 1) < 0.1,
        ),
        Check(
            "what is left, H - G, has no eigenvalue of that size at the end: a third or less",
            f"{rest[-1]:.3g}, which is {rest[-1] / H[-1]:.2f} of it; {rest[0] / H[0]:.2f} at the start",
            rest[-1] < H[-1] / 3,
        ),
        Check(
            "with cross-entropy the true Fisher matrix is Gauss-Newton: one eigenvalue, within 2 %",
            f"off by {apart:.1%} at most" if apart else "equal in the four digits that are kept",
            apart < 0.02,
        ),
        Check(
            "the true Fisher matrix is aligned with the Hessian at the end: cosine over .9",
            f"{true[-1]:.2f} +- {results['true cosine_stderr'][-1]:.2f}",
            true[-1] > 0.9,
        ),
        Check(
            "the empirical one is aligned with it, too, if less: cosine over .5, under the true one's",
            f"{empirical[-1]:.2f} +- {results['empirical cosine_stderr'][-1]:.2f}",
            0.5 < empirical[-1] < true[-1],
        ),
        Check(
            "but not of its size: the trace is off by a factor of two or more at the end",
            f"{traces:.2f} of the true one's",
            not 0.5 < traces < 2,
        ),
    ]


def reading(results: Results) -> str:
    """Why the distance falls, and why the empirical matrix is small."""
    distance, G, H = (results[n][0] for n in ("G distance", "G lambda_max", "sharpness"))
    return (
        "The rest of the Hessian is weighted with the errors of the fit, and goes with them. At the "
        f"start it is nearly all of the Hessian in norm, {distance:.2f}, though not in each direction: "
        f"Gauss-Newton's largest eigenvalue is {G:.2g} there, and the Hessian's {H:.2g}. The empirical "
        "Fisher matrix is made of the squares of these errors and goes with them, too: its trace falls "
        "far below that of the true one, so what takes it for the curvature is off by that factor, "
        "while its directions are still much the Hessian's."
    )


FINDING = Finding(
    name="gauss_newton",
    title="The Hessian becomes Gauss-Newton; the empirical Fisher matrix is another one",
    claim="The Hessian is Gauss-Newton plus the curvature of the network itself, which is weighted "
    "with the errors of the fit: it fades as the loss falls, and the large eigenvalues are "
    "Gauss-Newton's. With cross-entropy the Fisher matrix is Gauss-Newton. The empirical Fisher "
    "matrix, made of the gradients of the data, shares directions with the Hessian, but not its size.",
    source="Papyan 2019, arXiv:1901.08244 (H = G + rest); Martens 2020, arXiv:1412.1193 (Fisher and "
    "Gauss-Newton); Kunstner et al. 2019, arXiv:1905.12558 (the empirical Fisher matrix); Thomas et "
    "al. 2020, arXiv:1906.07774 (its alignment).",
    setting="An MLP 64-50-50-10 with ReLU on scikit-learn's 1797 digits, cross-entropy, SGD with "
    f"momentum (lr .05, batches of 64) for {STEPS // EPOCH} epochs; `Sharpness`, `GaussNewton`, "
    '`Fisher("type1")` and `Fisher("empirical")` on the whole data set every second epoch.',
    run=run,
    draw=draw,
    checks=checks,
    reading=reading,
    alt="Distance of the Hessian from Gauss-Newton, largest eigenvalues of four matrices, and cosines "
    "of the Hessian with two Fisher matrices, by epoch",
)
