"""Charts of the optimizer's steps, and of the gradients that they are made of."""

from __future__ import annotations

from curvwatch.charts.chart import Chart

STEPS = (
    Chart(
        "stability ratio of the step",
        "The curvature along the step just taken against its slope: at 1 the step no longer lowers the "
        "loss of its batch, above it raises it.",
        ("step/stability_ratio",),
        level=1.0,
        headline="stability ratio of the step: over 1 it overshoots",
    ),
    Chart(
        "directional sharpness of the step",
        "Curvature along each step: lower means that the optimizer moves in flatter directions.",
        ("step/directional_sharpness",),
        log=True,
    ),
    Chart(
        "gradient correlation of the step",
        "Slope of the loss along the unit step: the further below 0, the steeper downhill.",
        ("step/gradient_correlation",),
        level=0.0,
        headline="gradient correlation: below 0 is downhill",
    ),
    Chart(
        "loss change of the step",
        "Of its own batch, with the same random numbers: below 0 the step helped.",
        ("step/loss_change",),
        level=0.0,
        boards_only=True,
    ),
    Chart(
        "loss change of the step, relative to the loss",
        "Of its own batch: below 0 the step helped.",
        ("step/relative_loss_change",),
        level=0.0,
        boards_only=True,
    ),
    Chart(
        "gradient cosine of the step",
        "-1 is steepest descent, 0 across the valley.",
        ("step/gradient_cosine",),
        level=0.0,
        boards_only=True,
    ),
    Chart(
        "length of the step, relative to the weights",
        "How far the weights move for their size.",
        ("step/relative_update",),
        log=True,
        boards_only=True,
    ),
    Chart(
        "loss change of the step, and its prediction",
        "Apart where the step is too long for a second-order picture of the loss.",
        ("step/loss_change", "step/predicted_loss_change"),
        level=0.0,
        lines=("", "predicted"),
        boards_only=True,
    ),
    Chart(
        "length of the step",
        "How far the weights move.",
        ("step/update_norm",),
        log=True,
        boards_only=True,
    ),
    Chart(
        "directional sharpness, and that of other optimizers' steps",
        "At the same point, from the same gradients: lower is flatter.",
        ("step/directional_sharpness", "step/<optimizer>/directional_sharpness"),
        log=True,
        needs=("step/<optimizer>/directional_sharpness",),
    ),
    Chart(
        "gradient correlation, and that of other optimizers' steps",
        "A flat direction is of use where this is below 0, too: the loss falls along it.",
        ("step/gradient_correlation", "step/<optimizer>/gradient_correlation"),
        level=0.0,
        needs=("step/<optimizer>/gradient_correlation",),
    ),
    Chart(
        "gradient cosine, and that of other optimizers' steps",
        "-1 is steepest descent.",
        ("step/gradient_cosine", "step/<optimizer>/gradient_cosine"),
        level=0.0,
        needs=("step/<optimizer>/gradient_cosine",),
    ),
)

GRADIENTS = (
    Chart(
        "gradient norm, before and after clipping",
        "Apart where the gradient is clipped.",
        ("step/gradient_norm", "step/clipped_gradient_norm"),
        log=True,
        lines=("", "clipped"),
    ),
    Chart(
        "share of the gradient near zero",
        "Entries that are small beside the root mean square of all.",
        ("step/gradient_near_zero",),
    ),
    Chart(
        "mean of the gradient's entries",
        "Far from 0 beside their deviation: the weights are pushed one way.",
        ("step/gradient_mean",),
        level=0.0,
    ),
    Chart(
        "standard deviation of the gradient's entries",
        "The size of a typical entry.",
        ("step/gradient_std",),
        log=True,
    ),
    Chart(
        "update over weight",
        "How far the weights move for their size; some .001 is often advised.",
        ("step/update_to_weight",),
        log=True,
    ),
    Chart(
        "gradient norm of each layer",
        "Layers that fall far below the others hardly learn.",
        ("step/layer/<layer>/gradient_norm",),
        log=True,
    ),
    Chart(
        "clipped gradient norm of each layer",
        "As the optimizer got it.",
        ("step/layer/<layer>/clipped_gradient_norm",),
        log=True,
    ),
    Chart(
        "share of each layer's gradient near zero",
        "By the root mean square of all layers.",
        ("step/layer/<layer>/gradient_near_zero",),
    ),
    Chart(
        "update over weight of each layer",
        "Layers that lie apart move at another pace than the rest.",
        ("step/layer/<layer>/update_to_weight",),
        log=True,
    ),
    Chart(
        "share of activations that are not zero",
        "After ReLU-like layers: near 0 units are dead, or lazy.",
        ("curvature/nonzero_share",),
    ),
    Chart(
        "share of each layer's activations that are not zero",
        "One minus its sparsity.",
        ("curvature/layer/<layer>/nonzero_share",),
    ),
)
