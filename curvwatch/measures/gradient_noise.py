"""The gradient noise scale: how many examples it takes before a batch's gradient is mostly signal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from curvwatch.errors import CurvwatchError
from curvwatch.measures.base import Landscape, LandscapeMeasure, Reading
from curvwatch.objective import OpenObjective


class GradientNoise(LandscapeMeasure):
    """The simple noise scale tr(S) / abs(G)^2, from the gradients of the probe's batches.

    G is the mean gradient of one example, and S its covariance from example to example.

    | metric | value |
    |---|---|
    | `gradient/noise_scale` | tr(S) / abs(G)^2, in examples: of batches of this size noise and signal \
are alike |
    | `gradient/noise_trace` | tr(S) |
    | `gradient/signal` | abs(G)^2; may come out below 0 where noise hides it |
    | `gradient/noise_scale_stderr`, `gradient/noise_trace_stderr`, `gradient/signal_stderr` | their \
standard errors, by a jackknife over the batches; from 3 batches on |

    tr(S) and abs(G)^2 are estimated without bias, their quotient with one of order 1/k for k batches;
    where abs(G)^2 is not above 0 there is no quotient. The loss has to be a mean over independent
    examples: not a sum, and under BatchNorm only about so. At least two batches are needed
    (`probe_batches`); many small ones are more informative than a few large ones.

    Price: two gradients, one where another measure of the reading has made one. Not for weights that
    are spread over processes.

    Source: McCandlish et al. 2018, "An empirical model of large-batch training", equation 2.9 and
    appendix A.1, whose two batch sizes are here that of a batch and that of the probe.
    """

    name: str = "gradient_noise"
    metrics: tuple[str, ...] = (
        "gradient/noise_scale",
        "gradient/noise_scale_stderr",
        "gradient/noise_trace",
        "gradient/noise_trace_stderr",
        "gradient/signal",
        "gradient/signal_stderr",
    )

    def read(self, at: Landscape) -> Reading:
        """Read the noise; nan with a note where it is missing.

        Raises:
            CurvwatchError: weights are spread over processes.
        """
        objective = at.objective
        if objective.layout.sharded:
            raise CurvwatchError(
                "the gradient noise needs to know which examples a gradient comes from, which is "
                "unknown where weights are spread over processes"
            )
        values = dict.fromkeys(self.metrics, math.nan)
        count = objective.batches
        if count == 1:
            note = "the gradient noise needs at least two batches: probe_batches=2 or more"
            return Reading(values, (note,))
        mean = objective.known_gradient
        if mean is None:
            mean = objective.gradient()[1]
        off, along = _deviations(objective, mean)
        squared = objective.layout.dot(mean, mean)
        if objective.processes.true_on_any(not math.isfinite(squared + float(off.sum() + along.sum()))):
            return Reading(values, ("the gradient of a batch is not finite",))
        trace, signal, left = _estimates(objective, squared, off, along)
        values["gradient/noise_trace"], values["gradient/signal"] = trace, signal
        notes = []
        if count == 2:
            notes.append("standard errors of the gradient noise need 3 batches or more")
        else:
            errors = (_jackknife_stderr(objective, left[:, i]) for i in (0, 1))
            values["gradient/noise_trace_stderr"], values["gradient/signal_stderr"] = errors
        if signal <= 0:
            notes.append(
                f"noise hides the gradient: its squared norm is estimated at {signal:.3g}, so there is "
                "no noise scale; more probe_batches may give one"
            )
            return Reading(values, tuple(notes))
        scale = values["gradient/noise_scale"] = trace / signal
        if count > 2:
            linear = _jackknife_stderr(objective, left[:, 0] - scale * left[:, 1])
            values["gradient/noise_scale_stderr"] = linear / signal
        return Reading(values, tuple(notes))


def _deviations(objective: OpenObjective, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Of each batch of this process |g - mean|^2 and (g - mean) . mean, shapes (batches,), float64."""
    dot = objective.layout.dot

    def compute() -> Tensor:
        rows = []
        for joined, sample in zip(objective.evaluation.gradients(None), objective.samples, strict=True):
            off = joined[:-1] / sample.weight - mean
            rows.append([dot(off, off), dot(off, mean)])
        return torch.tensor(rows, dtype=torch.float64, device=objective.layout.device)

    objective.counts.gradients += 1
    off, along = objective.processes.run_together(compute).unbind(1)
    return off, along


def _estimates(
    objective: OpenObjective, squared: float, off: Tensor, along: Tensor
) -> tuple[float, float, Tensor]:
    """tr(S), |G|^2, and both without each batch of this process, shape (batches, 2).

    Args:
        objective: whose batches count by their weights, which are their shares of the examples.
        squared: |mean|^2.
        off: |g - mean|^2 of each batch.
        along: (g - mean) . mean of each batch.
    """
    processes, count = objective.processes.with_own_batches, objective.batches
    examples = off.new_tensor(float(sum(s.size for s in objective.samples)))
    total = objective.processes.mean(examples) * processes
    sizes = total / processes * off.new_tensor([s.weight for s in objective.samples])
    squares = objective.processes.mean((sizes * off).sum()) * processes
    trace = squares / (count - 1)
    signal = squared - trace / total
    rest = total - sizes
    # leaving out a batch moves the mean by -(size / rest) (g - mean)
    moved = sizes / rest
    left_trace = (squares - sizes * off * total / rest) / max(count - 2, 1)
    left_signal = squared - 2 * moved * along + moved.square() * off - left_trace / rest
    return float(trace), float(signal), torch.stack([left_trace, left_signal], dim=1)


def _jackknife_stderr(objective: OpenObjective, left: Tensor) -> float:
    """Standard error from the values `left` (batches,) without each batch (Tukey 1958)."""
    count, processes = objective.batches, objective.processes.with_own_batches
    mean = objective.processes.mean(left.mean())
    spread = float(objective.processes.mean((left - mean).square().sum())) * processes
    return math.sqrt(spread * (count - 1) / count)
