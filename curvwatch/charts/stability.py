"""Charts of sharpness and its edges, of stationary points, and of batches."""

from __future__ import annotations

from curvwatch.charts.chart import Chart

STABILITY = (
    Chart(
        "stability ratio (1 is the edge)",
        "Effective sharpness over the edge of the run's own optimizer: healthy runs climb to 1 and "
        "hover there; well over 1 the loss is about to spike.",
        ("curvature/stability_ratio",),
        level=1.0,
        headline="stability ratio: 1 is the edge",
    ),
    Chart(
        "sharpness with its error",
        "The largest eigenvalue of the Hessian on the probe, and how far it may be off.",
        ("curvature/sharpness",),
        boards_only=True,
    ),
    Chart(
        "loss on the probe",
        "The same batches at every reading: lower is better.",
        ("curvature/loss",),
    ),
    Chart(
        "sharpness against 2/lr",
        "Plain gradient descent is stable while its sharpness is below 2/lr.",
        ("curvature/sharpness", "curvature/edge"),
        log=True,
        lines=("", "2/lr"),
        boards_only=True,
    ),
    Chart(
        "effective sharpness against its edge",
        "A run is stable while its line is below its own dots; a lower edge is a larger learning rate.",
        ("curvature/effective_sharpness", "curvature/effective_edge"),
        log=True,
        headline="effective sharpness, and its edge (dots)",
    ),
    Chart(
        "learning rate x sharpness",
        "2 is the edge of plain gradient descent.",
        ("curvature/sharpness_x_lr",),
        level=2.0,
        boards_only=True,
    ),
    Chart(
        "critical sharpness: 2 / the shortest step that raises the loss",
        "Sharpness along the optimizer's own step, by forward passes alone; the band is the bracket of "
        "the search.",
        ("curvature/critical_sharpness",),
        log=True,
    ),
    Chart(
        "critical ratio: from 1 on the step raises the loss",
        "The learning rate over the one at which the step no longer lowers the loss on the probe.",
        ("curvature/critical_ratio",),
        level=1.0,
    ),
    Chart(
        "Keskar's sharpness in a box",
        "By how many per cent of 1 + loss the loss can rise in a small box: a lower bound of it.",
        ("curvature/epsilon_sharpness",),
        log=True,
    ),
    Chart(
        "gain of the last step of the search in the box",
        "Near 0 the search is at its end; else the box holds more than was found.",
        ("curvature/epsilon_sharpness_gain",),
    ),
    Chart(
        "SAM's sharpness",
        "How far the loss rises along SAM's step, to the border of a small ball.",
        ("curvature/sam_sharpness",),
        log=True,
    ),
)

STATIONARY = (
    Chart(
        "gradient norm on the probe",
        "Small beside its earlier values: the run is near a stationary point of the probe's loss.",
        ("curvature/gradient_norm",),
        log=True,
    ),
    Chart(
        "gradient over curvature",
        "How far the gradient's zero is, relative to the weights, were all curvature that of the "
        "sharpest direction.",
        ("curvature/gradient_over_curvature",),
        log=True,
    ),
    Chart(
        "index: share of the eigenvalues below 0",
        "Clearly below 0, by their number: 0 at a minimum, above it at a saddle.",
        ("curvature/index_share",),
    ),
    Chart(
        "kind of the point",
        "0: a slope, 1: a plateau, 2: a saddle, 3: a minimum.",
        ("curvature/stationary_kind",),
    ),
)

BATCHES = (
    Chart(
        "batch sharpness against 2/lr",
        "Batch sharpness of SGD without momentum hovers at 2/lr (dots), while that of the whole probe "
        "stays below; bands are two standard errors.",
        (
            "curvature/batch_sharpness",
            "curvature/interaction_sharpness",
            "curvature/sharpness",
            "curvature/edge",
        ),
        log=True,
        lines=("of batches", "interaction-aware", "of the probe", "2/lr"),
        needs=("curvature/batch_sharpness",),
    ),
    Chart(
        "batch sharpness with its error",
        "The curvature of each batch along its own gradient, in the mean.",
        ("curvature/batch_sharpness",),
        boards_only=True,
    ),
    Chart(
        "batch stability ratio (1 is 2/lr)",
        "Batch sharpness x learning rate / 2: SGD without momentum hovers at 1.",
        ("curvature/batch_stability_ratio",),
        level=1.0,
    ),
    Chart(
        "interaction-aware sharpness with its error",
        "The curvature of the whole probe along the gradients of its batches.",
        ("curvature/interaction_sharpness",),
        boards_only=True,
    ),
    Chart(
        "gradient noise scale, in examples",
        "Of batches of this size noise and signal are alike; much smaller ones waste steps, much "
        "larger ones examples.",
        ("gradient/noise_scale",),
        log=True,
    ),
    Chart(
        "gradient noise: trace of its covariance",
        "How far the gradients of single examples scatter.",
        ("gradient/noise_trace",),
        log=True,
    ),
    Chart(
        "squared norm of the gradient without its noise",
        "May come out below 0 where noise hides it.",
        ("gradient/signal",),
        log=True,
    ),
)
