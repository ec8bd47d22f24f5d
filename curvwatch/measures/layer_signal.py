"""How much a small change of a layer's weights grows on its way to the outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from curvwatch.checks import check_choice, check_fraction, check_int
from curvwatch.measures.base import Landscape, LandscapeMeasure, Reading
from curvwatch.measures.layer_signal_passes import (
    Layers,
    Signals,
    WeightDirections,
    by_derivatives,
    by_differences,
    outputs_change,
)
from curvwatch.objective import OpenObjective
from curvwatch.objective.layers import called_layers, padding_rows, parameter_names

Direction = Literal["random", "gradient"]
_WHOLE = ("curvature/layer_signal", "curvature/layer_signal_stderr")
# a derivative that is off by more from a difference of two forward passes is none
_SAME = 0.1
_WRONG_DERIVATIVE = (
    "the derivative of the outputs along the weights is {:.4g}, and a difference of two forward passes "
    "gives {:.4g}: an operation has a wrong derivative (a custom one, a straight-through estimator, an "
    "embedding that renormalises its rows), or the outputs are discontinuous"
)
# differences at the whole and at half the distance that are further apart are none
_LINEAR = 0.05
_NONLINEAR = (
    "differences of forward passes are off by {:.0%} from those at half the distance: the step is too "
    "long for the network's curvature or its kinks, or too short for rounding; "
    "LayerSignal(distance=...) sets it, here {:.2g}"
)


class LayerSignal(LandscapeMeasure):
    """How much the change of a layer's outputs, by a small change of its weights, grows downstream.

    y_l are the outputs of layer l on the probe, z those of the network, and dy_l and dz their changes
    while the weights of layer l alone move by a small step in a random direction. Norms run over all
    entries of all batches.

    | metric | value |
    |---|---|
    | `curvature/layer/<name>/signal` | (abs(dz) / abs(z)) / (abs(dy_l) / abs(y_l)): over 1 what \
follows the layer amplifies a relative change, below 1 it damps it; of the last layer 1 |
    | `curvature/layer/<name>/signal_stderr` | its standard error over the random directions |
    | `curvature/layer_signal` | (abs(dz) / abs(z)) / (abs(dw) / abs(w)), while the weights of all \
layers move together, each layer in proportion to its abs(w_l) |
    | `curvature/layer_signal_stderr` | its standard error over the random directions |

    Steps are infinitely small: dy_l and dz are derivatives along the direction, exact, and means over
    the directions are taken of the quotients. A difference of two forward passes along the first
    direction of all weights is compared with the derivative; where they differ by more than 10 % the
    values are doubtful (not where training computes in half precision: rounding would be more).
    With `hvp="difference"`, and for weights that are spread over processes, changes are central
    differences of forward passes `distance` x abs(w_l) to each side; those along the first direction
    of each layer are made at half the distance, too, and where the two differ by more than 5 % the
    value is doubtful.

    A layer is a module with weights that is called in the forward pass; y_l is all that its calls
    return. Of weights that several modules share the first is the layer, and all move. Weights of a
    module that nobody calls belong to the one outside that is called, those of nn.MultiheadAttention
    to it as a whole; a layer that is not called is nan. The outputs z are what cross_entropy, mse_loss
    or another loss function of torch.nn.functional got (logits, where it got probabilities); of a loss
    that uses none of them, the results of modules with weights that it is computed from. On a residual
    branch y_l is of the branch alone: beside a large stream a small branch has a small signal.

    Price: two gradients, two forward passes for the comparison, and for each layer `probes`
    derivatives, each of half a forward pass (a transformer) to two (convolutions): 20 to 40 gradients
    for networks of 3 to 20 layers. By differences 2 x `probes` + 2 forward passes for each layer. In
    memory `probes` vectors of the size of the weights during a reading.

    Args:
        direction: "random": Gaussian; "gradient": that of the loss on the probe, one for each layer,
            without standard errors.
        probes: random directions; at least 2, for the standard errors.
        distance: of differences, relative to the norm of a layer's weights; None: the cube root of the
            weights' rounding, .005 in float32.
        every_n_steps: cadence of this measure alone; None: the monitor's.

    Sources: Liu et al. 2020, "Understanding the difficulty of training transformers" (the change of
    the outputs under a random and under a gradient's perturbation of the weights, and its amplification
    by layers); Bernstein et al. 2020, "On the distance between two neural networks and the stability of
    learning" (perturbations relative to each layer's weights); Trefethen & Bau 1997, lecture 12 (the
    quotient of relative changes: a condition number, here along one direction).
    """

    name: str = "layer_signal"
    expensive: ClassVar[bool] = True
    metrics: tuple[str, ...] = _WHOLE

    def __init__(
        self,
        *,
        direction: Direction = "random",
        probes: int = 4,
        distance: float | None = None,
        every_n_steps: int | None = None,
    ) -> None:
        super().__init__(every_n_steps=every_n_steps)
        check_choice("direction", direction, get_args(Direction))
        check_int(
            "probes", probes, at_least=2, what="at least 2 random directions, for a standard error,"
        )
        if distance is not None:
            needed = "a share of the weights' norm between 0 and 1, such as 0.01, or None"
            check_fraction("distance", distance, what=needed)
        self.direction: Direction = direction
        self.probes = probes if direction == "random" else 1
        self.distance = distance
        if direction == "gradient":
            self.metrics = _WHOLE[:1]

    def metrics_of(self, module: nn.Module, params: Sequence[Tensor]) -> tuple[str, ...]:
        """Those of each layer, and those of the whole."""
        return self._metrics(list(called_layers(module, parameter_names(module, params))))

    def read(self, at: Landscape) -> Reading:
        """Read the signals; nan with a note where one is not available."""
        objective = at.objective
        layers = called_layers(objective.module, objective.names)
        values = dict.fromkeys(self._metrics(layers), math.nan)
        exact = objective.hvp == "exact" and objective.evaluation.supports_graphs
        gradient = self._gradient(objective, exact=exact)
        if gradient is not None and not bool(torch.isfinite(gradient).all()):
            return Reading(values, ("the gradient on the probe is not finite",))
        layout, weights = objective.layout, objective.weights
        if self.direction == "random":
            shape = (self.probes, layout.size)
            vectors = torch.randn(shape, generator=at.generator, dtype=layout.dtype).to(layout.device)
        else:
            assert gradient is not None
            vectors = gradient[None].clone()  # it is the objective's
        for rows in padding_rows(objective.module, objective.names, layout):
            vectors[:, rows] = 0.0  # they are never trained
        directions = WeightDirections.of(layout, layers, weights, vectors)
        distance = self.distance or max(torch.finfo(t).eps for t in layout.dtypes) ** (1 / 3)
        if exact:
            signals = by_derivatives(objective, layers, directions)
        else:
            signals = by_differences(objective, layers, directions, distance)
        notes = self._fill(values, layers, directions, signals)
        doubts = _nonlinearity_doubts(values, layers, signals, distance)
        if exact and not signals.half:
            doubts = _derivative_doubts(values, objective, layers, directions, signals, distance)
        return Reading(
            values, notes, doubtful=tuple(doubts), doubts=tuple(dict.fromkeys(doubts.values()))
        )

    def _metrics(self, layers: Iterable[str]) -> tuple[str, ...]:
        stderr = self.direction == "random"
        of_each = [
            (f"curvature/layer/{n}/signal", f"curvature/layer/{n}/signal_stderr") for n in layers
        ]
        return tuple(name for pair in of_each for name in pair[: 1 + stderr]) + self.metrics

    def _gradient(self, objective: OpenObjective, *, exact: bool) -> Tensor | None:
        """Of the loss on the probe; None where it is not needed."""
        if exact:  # made with the graphs that large batches are cut by
            point = objective.linearize()
            if objective.is_chunked:
                point.product(point.gradient)  # shows whether they add up
            return point.gradient
        if self.direction == "random":
            return None
        if objective.known_gradient is None:
            objective.gradient()
        return objective.known_gradient

    def _fill(
        self, values: dict[str, float], layers: Layers, directions: WeightDirections, signals: Signals
    ) -> tuple[str, ...]:
        """Fill in the signals; notes say why one is missing."""
        if not bool(signals.layers.any() or signals.of_layers.any()):
            return ("no module with weights was called, so no layer has a signal",)
        if not 0.0 < signals.outputs < math.inf:
            what = "zero, or not known" if signals.outputs == 0.0 else "not finite"
            return (f"the outputs of the network are {what}",)
        changes = signals.of_outputs / signals.outputs  # relative, squared
        missing: dict[str, list[str]] = {}
        for name, size, own, of_outputs in zip(
            layers, signals.layers, signals.of_layers, changes[:-1], strict=True
        ):
            quotients = (of_outputs / (own / size)).sqrt()
            if size > 0.0 and bool(torch.isfinite(quotients).all()):
                self._put(values, f"curvature/layer/{name}/signal", quotients)
            else:
                missing.setdefault(_reason_missing(float(size), own), []).append(name)
        if any(directions.norms):
            self._put(values, _WHOLE[0], changes[-1].sqrt())
        return tuple(f"no signal of {', '.join(names)}: {why}" for why, names in missing.items())

    def _put(self, values: dict[str, float], metric: str, quotients: Tensor) -> None:
        values[metric] = float(quotients.mean())
        if len(quotients) > 1:
            values[f"{metric}_stderr"] = float(quotients.std()) / math.sqrt(len(quotients))


def _reason_missing(size: float, own: Tensor) -> str:
    """Why a layer whose outputs have the square `size`, and their changes `own`, has no signal."""
    if not (math.isfinite(size) and bool(torch.isfinite(own).all())):
        return "outputs or changes are not finite"
    if size == 0.0:
        return "outputs are zero" if bool(own.any()) else "not called in the forward pass"
    return "outputs do not change when the weights do"


def _nonlinearity_doubts(
    values: dict[str, float], layers: Iterable[str], signals: Signals, distance: float
) -> dict[str, str]:
    """The values for which differences at half the distance say something else, and why."""
    metrics = [*(f"curvature/layer/{name}/signal" for name in layers), _WHOLE[0]]
    return {
        metric: f"{metric} is not to be trusted: {_NONLINEAR.format(apart, distance)}"
        for metric, apart in zip(metrics, signals.bent.tolist(), strict=True)
        if apart > _LINEAR and math.isfinite(values[metric])
    }


def _derivative_doubts(
    values: dict[str, float],
    objective: OpenObjective,
    layers: Layers,
    directions: WeightDirections,
    signals: Signals,
    distance: float,
) -> dict[str, str]:
    """All values, and why, where a difference of forward passes is not the derivative."""
    if math.isnan(values[_WHOLE[0]]):
        return {}
    exact = math.sqrt(signals.of_outputs[-1, 0])
    seen = math.sqrt(outputs_change(objective, layers, next(directions.of_all), distance))
    if abs(seen - exact) <= _SAME * max(seen, exact):
        return {}
    return dict.fromkeys(
        values, f"signals are not to be trusted: {_WRONG_DERIVATIVE.format(exact, seen)}"
    )
