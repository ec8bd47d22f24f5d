"""The curvature of each batch's own loss along its own gradient, and of the probe's along it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from curvwatch.errors import CurvwatchError
from curvwatch.measures.base import Landscape, LandscapeMeasure, Reading
from curvwatch.objective import OpenObjective
from curvwatch.objective.evaluation import Graph
from curvwatch.objective.flat_layout import summed
from curvwatch.objective.samples import RecordedBatch

# of the mean square of the gradients: a batch under it has no direction
_FLOOR = 1e-12
_OF_INTERACTION = ("curvature/interaction_sharpness", "curvature/interaction_sharpness_stderr")


class BatchSharpness(LandscapeMeasure):
    """Batch sharpness and interaction-aware sharpness, over the batches B of the probe.

    g_B and H_B are gradient and Hessian of the loss of batch B, H the Hessian of the whole probe, E the
    mean over its batches, each by its share of the examples.

    | metric | value |
    |---|---|
    | `curvature/batch_sharpness` | E[g_B' H_B g_B / abs(g_B)^2] |
    | `curvature/batch_sharpness_stderr` | its standard error from its spread over the batches |
    | `curvature/batch_stability_ratio` | batch sharpness x lr / 2; SGD without momentum hovers at 1 |
    | `curvature/interaction_sharpness` | E[g_B' H g_B] / E[abs(g_B)^2] = tr(H S) / tr(S), S = \
E[g_B g_B'] |
    | `curvature/interaction_sharpness_stderr` | its standard error, H drawn with the batches |

    The probe's batches stand for those of training: they should have its size, and be many
    (`probe_batches`; about 100 for an error of some per cent). With k batches 1/k of H is the batch's
    own H_B, so interaction-aware sharpness is drawn to that of the batches by about 1/k of their
    distance; with one batch both are the same, and have no standard error. Interaction-aware
    sharpness, a quotient of means, has a bias of order 1/k, too. Batches whose abs(g_B)^2 is under
    1e-12 of the mean are left out of batch sharpness: they have no direction. With momentum m batch
    sharpness levels off elsewhere: at 2 (1 - m) / lr for small batches and 2 (1 + m) / lr for large
    ones.

    Price: for each batch its gradient and one product with its own Hessian, together some 3 gradients
    of the probe; interaction-aware sharpness takes k products, of the whole probe each, so k times as
    much: `interaction=False` leaves it out. Memory is that of one batch. Not for weights that are
    spread over processes, nor for products by differences; over several processes interaction-aware
    sharpness is missing.

    Args:
        interaction: whether to read interaction-aware sharpness.
        every_n_steps: cadence of this measure alone; None: the monitor's.

    Sources: Andreyev & Beneventano 2024, "Edge of stochastic stability: revisiting the edge of
    stability for SGD" (batch sharpness); Andreyev et al.
    2026, "Momentum further constrains sharpness at the edge of stochastic stability"; Lee & Jang 2023,
    "A new characterization of the edge of stability based on a sharpness measure aware of batch
    gradient distribution" (interaction-aware sharpness).
    """

    name: str = "batch_sharpness"
    metrics: tuple[str, ...] = (
        "curvature/batch_sharpness",
        "curvature/batch_sharpness_stderr",
        "curvature/batch_stability_ratio",
        *_OF_INTERACTION,
    )

    def __init__(self, *, interaction: bool = True, every_n_steps: int | None = None) -> None:
        super().__init__(every_n_steps=every_n_steps)
        if not isinstance(interaction, bool):
            raise ValueError(f"interaction={interaction!r}: True or False is needed")
        self.interaction = interaction
        if not interaction:
            self.metrics = type(self).metrics[: -len(_OF_INTERACTION)]

    def read(self, at: Landscape) -> Reading:
        """Read both; nan with a note where a value is not available.

        Raises:
            CurvwatchError: there are no products with the Hessian of one batch.
        """
        objective = at.objective
        values = dict.fromkeys(self.metrics, math.nan)
        with_whole = self.interaction and objective.processes.with_own_batches == 1
        sizes, quotients = _by_batch(objective, with_whole=with_whole)
        if objective.processes.true_on_any(
            not bool(torch.isfinite(torch.cat([sizes, quotients], 1)).all())
        ):
            return Reading(values, ("the gradient of a batch, or a product with it, is not finite",))
        notes = []
        # (batches,): shares of E[|g_B|^2]; every process has the same share of the probe
        weights = sizes.new_tensor([[s.weight] for s in objective.samples])
        total = float(objective.processes.mean((weights * sizes).sum()))
        if total == 0.0:
            return Reading(values, ("the gradient of each batch is zero",))
        shares = weights * sizes / total
        own = quotients.diagonal()[:, None] if with_whole else quotients
        counted = weights * (sizes > _FLOOR * total)
        counted = counted / float(objective.processes.mean(counted.sum()))
        sharpness = float(objective.processes.mean((counted * own).sum()))
        values["curvature/batch_sharpness"] = sharpness
        values["curvature/batch_sharpness_stderr"] = _stderr(objective, counted * (own - sharpness))
        fastest = max(at.learning_rates)
        if fastest > 0 and min(at.learning_rates) == fastest:
            values["curvature/batch_stability_ratio"] = sharpness * fastest / 2
        elif min(at.learning_rates) < fastest:
            notes.append("groups have different learning rates, so there is no single 2 / lr")
        if with_whole:
            each = quotients @ weights
            whole = float((shares * each).sum())
            # a batch counts by its gradient and by its part of H
            off = shares * (each - whole) + weights * (quotients.T @ shares - whole)
            values["curvature/interaction_sharpness"] = whole
            values["curvature/interaction_sharpness_stderr"] = _stderr(objective, off)
        elif self.interaction:
            notes.append(
                "interaction-aware sharpness needs all batches on one process; "
                "BatchSharpness(interaction=False) leaves it out"
            )
        if objective.batches == 1:
            notes.append("the probe has one batch, so batch sharpness has no standard error")
        return Reading(values, tuple(notes))


def _stderr(objective: OpenObjective, off: Tensor) -> float:
    """From what each batch adds to the deviation of a mean, to first order; nan for one batch."""
    count, processes = objective.batches, objective.processes.with_own_batches
    if count == 1:
        return math.nan
    spread = float(objective.processes.mean(off.square().sum())) / processes
    return math.sqrt(spread * count / (count - 1))


def _by_batch(objective: OpenObjective, *, with_whole: bool) -> tuple[Tensor, Tensor]:
    """Of each batch i |g_i|^2, and u' H_i u or all u' H_j u, u the unit vector along g_i.

    Shapes (batches, 1), and (batches, 1) or (batches, batches), in float64.
    """
    evaluation = objective.evaluation
    if objective.hvp != "exact" or not evaluation.supports_graphs:
        raise CurvwatchError(
            "batch sharpness needs the Hessian of each batch by automatic differentiation: not with "
            "hvp='difference', nor with weights that are spread over processes"
        )
    parts = _parts(objective)
    layout, counts = objective.layout, objective.counts

    def direction(joined: Tensor, sample: RecordedBatch) -> tuple[float, Tensor]:
        gradient = joined[:-1] / sample.weight
        size = layout.dot(gradient, gradient)
        return size, gradient / math.sqrt(size) if size > 0 else gradient

    def quotient(v: Tensor, batch: int) -> float:
        of_parts = evaluation.map_graphs(lambda graph: layout.dot(v, graph.product(v)), parts[batch])
        return sum(of_parts) / objective.samples[batch].weight

    def along_own(batch: int) -> tuple[float, Tensor, float]:
        sample = objective.samples[batch]

        def of_graph(graph: Graph) -> tuple[float, Tensor, float]:
            size, v = direction(graph.gradient_and_loss(), sample)
            return size, v, layout.dot(v, graph.product(v)) / sample.weight

        if len(parts[batch]) == 1:
            return next(evaluation.map_graphs(of_graph, parts[batch]))
        joined = summed(evaluation.map_graphs(lambda graph: graph.gradient_and_loss(), parts[batch]))
        size, v = direction(joined, sample)
        return size, v, quotient(v, batch)

    def compute() -> Tensor:
        rows = []
        for i in range(len(parts)):
            size, v, own = along_own(i)
            others = range(len(parts)) if with_whole else (i,)
            rows.append([size, *(own if j == i else quotient(v, j) for j in others)])
        return torch.tensor(rows, dtype=torch.float64, device=layout.device)

    passes = len(parts) if with_whole else 1
    counts.gradients += passes
    counts.products += passes
    result = objective.processes.run_together(compute)
    return result[:, :1], result[:, 1:]


def _parts(objective: OpenObjective) -> Sequence[Sequence[RecordedBatch]]:
    """The batches, each in the parts in which products are made."""
    if objective.chunk_size is not None:
        point = objective.linearize()
        if objective.is_chunked:
            point.product(point.gradient)  # shows whether they add up
    pieces, parts = list(objective.chunks), []
    for sample in objective.samples:
        taken = [pieces.pop(0)]
        while sum(p.size for p in taken) < sample.size:
            taken.append(pieces.pop(0))
        parts.append(taken)
    return parts
