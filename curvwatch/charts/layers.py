"""Charts of the layers, and of what readings cost."""

from __future__ import annotations

from curvwatch.charts.chart import Chart

LAYERS = (
    Chart(
        "sharpness of each layer",
        "The largest eigenvalue of each layer's block of the Hessian.",
        ("curvature/layer/<layer>/sharpness",),
        log=True,
    ),
    Chart(
        "share of each layer in the trace",
        "Where the curvature of the network is; below 0 or over 1 where traces are negative.",
        ("curvature/layer/<layer>/share",),
    ),
    Chart(
        "trace of each layer",
        "Of its block of the Hessian.",
        ("curvature/layer/<layer>/trace",),
        log=True,
    ),
    Chart(
        "share of each layer in the leading eigenvector",
        "Where the sharpest direction of the whole network lies.",
        ("curvature/layer/<layer>/eigenvector_share",),
    ),
    Chart(
        "growth of a change of all layers on its way to the outputs",
        "A relative change of the outputs over that of the weights, all layers moving together.",
        ("curvature/layer_signal",),
        level=1.0,
    ),
    Chart(
        "growth of a change of each layer on its way to the outputs",
        "Over 1 what follows the layer amplifies a relative change, below 1 it damps it.",
        ("curvature/layer/<layer>/signal",),
        level=1.0,
        log=True,
    ),
    Chart(
        "heterogeneity of the layers",
        "Mean distance of their normalised spectral densities: 0: of one shape, 1: apart.",
        ("curvature/layer_heterogeneity",),
    ),
    Chart(
        "largest relative residual of the layers' sharpness: an error bound",
        "Of the worst layer.",
        ("curvature/layer_residual",),
        log=True,
        boards_only=True,
    ),
)

COST = (
    Chart(
        "share of the training time",
        "Of all readings so far.",
        ("curvature/cost_share",),
        boards_only=True,
    ),
    Chart(
        "seconds of a reading",
        "Of the landscape, all measures together.",
        ("curvature/cost_seconds",),
        boards_only=True,
    ),
    Chart(
        "Hessian-vector products of a reading",
        "Each costs some 2 gradients.",
        ("curvature/cost_hvps",),
        boards_only=True,
    ),
    Chart(
        "forward passes of critical sharpness",
        "As many as its search may take where it finds no bracket.",
        ("curvature/critical_forwards",),
        boards_only=True,
    ),
)
