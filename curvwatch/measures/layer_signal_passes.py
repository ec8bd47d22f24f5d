"""Changes of a network's outputs, and of its layers', while weights move: squares of their norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from curvwatch.errors import CurvwatchError
from curvwatch.objective import OpenObjective
from curvwatch.objective.evaluation import refuse_detached
from curvwatch.objective.flat_layout import Layout, local_dot, summed
from curvwatch.objective.layers import CalledLayer, part_of, places_of
from curvwatch.objective.loss_checks import (
    computes_in_half,
    named_where_missing,
    refuse_once_differentiable,
)
from curvwatch.objective.outputs.forward_recorder import ForwardRecorder
from curvwatch.objective.outputs.output_graph import derivatives
from curvwatch.objective.samples import RecordedBatch

Layers = Mapping[str, CalledLayer]


@dataclass(frozen=True)
class WeightDirections:
    """Where weights move.

    Attributes:
        of_each: in the part of each layer a unit vector, or zero: (n, size).
        norms: of the layers' weights, (layers,).
        places: of each layer in a flat vector.
    """

    of_each: Tensor
    norms: tuple[float, ...]
    places: tuple[list[slice], ...]

    @classmethod
    def of(cls, layout: Layout, layers: Layers, weights: Tensor, vectors: Tensor) -> WeightDirections:
        """The directions of `vectors` (n, size), which are overwritten, at `weights` (size,)."""
        norms, places = [], []
        for layer in layers.values():
            part, here = part_of(layout, layer.indices), places_of(layout, layer.indices)
            w = torch.cat([weights[p] for p in here])
            norms.append(math.sqrt(part.dot(w, w)))
            places.append(here)
            for vector in vectors:
                v = torch.cat([vector[p] for p in here])
                length = math.sqrt(part.dot(v, v)) or 1.0
                for p in here:
                    vector[p] /= length
        return cls(vectors, tuple(norms), tuple(places))

    @property
    def of_all(self) -> Iterator[Tensor]:
        """Each of the directions with its parts times the norms of their layers' weights: (size,)."""
        for vector in self.of_each:
            scaled = vector.clone()
            for norm, places in zip(self.norms, self.places, strict=True):
                for p in places:
                    scaled[p] *= norm
            yield scaled


@dataclass(frozen=True)
class Signals:
    """Sums over all entries of all batches, those of other processes in their mean; float64.

    Attributes:
        layers: |y_l|^2, shape (layers,); 0 of a layer that was not called.
        outputs: |z|^2.
        of_layers: |dy_l|^2 for each direction, shape (layers, n).
        of_outputs: |dz|^2 for each layer and, in the last row, for all together: (layers + 1, n).
        bent: how far dy_l or dz is from what half the distance gives, relative: (layers + 1,); 0 of
            derivatives.
        half: whether something was computed in half precision.
    """

    layers: Tensor
    outputs: float
    of_layers: Tensor
    of_outputs: Tensor
    bent: Tensor
    half: bool = False

    @classmethod
    def from_table(cls, table: Tensor, **others: Any) -> Signals:
        """From a row for each layer and one for all: size, changes of the layer, of the outputs."""
        count = (table.shape[1] - 1) // 2
        sizes, of_layers, of_outputs = table.cpu().split([1, count, count], dim=1)
        return cls(sizes[:-1, 0], float(sizes[-1, 0]), of_layers[:-1], of_outputs, **others)


def by_derivatives(objective: OpenObjective, layers: Layers, directions: WeightDirections) -> Signals:
    """Exact derivatives along the directions, by differentiating the backward pass.

    J'u is linear in u, and the derivative of v'J'u by u is J v: a pass through the graph of the
    backward pass alone, from the layer to the outputs.
    """
    evaluation = objective.evaluation
    layout, count = objective.layout, len(directions.of_each)
    seen: dict[str, list[Tensor]] = {}
    sizes: dict[str, Tensor] = {}
    halves: list[bool] = []

    def see(name: str, y: Tensor) -> None:
        sizes[name] = _square(y) + sizes.get(name, 0.0)
        seen.setdefault(name, []).append(_place(y))

    watch = ForwardRecorder(objective.module, layers, see)

    def of_graph(sample: RecordedBatch, loss: Tensor, leaves: list[Tensor]) -> Tensor:
        refuse_detached(loss)
        refuse_once_differentiable(loss)
        outputs = watch.outputs(loss)
        halves.append(computes_in_half([loss, *outputs]))
        evaluation.restore_weights(sample, leaves)
        table = torch.zeros(len(layers) + 1, 1 + 2 * count, dtype=torch.float64, device=layout.device)
        table[-1, 0] = sum(map(_square, outputs))
        downstream = _JacobianProduct(outputs, leaves)
        for row, (name, layer) in zip(table, layers.items(), strict=False):
            own = _JacobianProduct(seen.pop(name, ()), [leaves[i] for i in layer.indices])
            row[0] = sizes.pop(name, 0.0)
            for i, vector in enumerate(directions.of_each):
                parts = layout.split(vector)
                moved = [parts[j] for j in layer.indices]
                row[1 + i] = own.squared(moved)
                row[1 + count + i] = downstream.squared(moved, layer.indices)
        for i, vector in enumerate(directions.of_all):
            table[-1, 1 + count + i] = downstream.squared(layout.split(vector))
        watch.clear()
        return table

    objective.counts.gradients += 2
    objective.counts.forwards += count * (len(layers) + 1)
    loss_fn = _record_forwards(objective, watch)
    table = objective.processes.mean(
        objective.processes.run_together(
            lambda: summed(evaluation.map_losses(of_graph, objective.chunks, loss_fn=loss_fn))
        )
    )
    bent = torch.zeros(len(layers) + 1, dtype=torch.float64)
    return Signals.from_table(table, bent=bent, half=objective.processes.true_on_any(any(halves)))


def by_differences(
    objective: OpenObjective, layers: Layers, directions: WeightDirections, distance: float
) -> Signals:
    """Central differences of forward passes, `distance` x |w_l| to each side."""
    moving = _Moving(objective, layers)
    rows, bent = [], []
    # a layer without weights that are not zero moves by `distance` itself
    norms = [norm or 1.0 for norm in directions.norms]
    steps = zip(layers, norms, directions.places, strict=True)
    for name, norm, places in [*steps, (None, 1.0, None)]:
        row: list[Tensor] = []
        for i, vector in enumerate(directions.of_all if places is None else directions.of_each):
            v = vector if places is None else _restrict(vector, places) * norm
            squares = moving.squares(v, distance, name, halved=i == 0)  # (2, 2)
            row.append(squares[0] / norm**2)
            if i == 0:
                bent.append((squares[1] / squares[0]).sqrt().nan_to_num(0.0).max())
        rows.append(torch.stack(row, dim=1).reshape(-1))  # (2 n,)
    changes = torch.stack(rows)
    sizes = moving.sizes()
    return Signals.from_table(torch.cat([sizes[:, None], changes], dim=1), bent=torch.stack(bent).cpu())


def outputs_change(objective: OpenObjective, layers: Layers, v: Tensor, distance: float) -> float:
    """|dz|^2 along `v` (size,), by a central difference of two forward passes."""
    return float(_Moving(objective, layers).squares(v, distance, None)[0, 1])


class _Moving:
    """Forward passes at displaced weights."""

    def __init__(self, objective: OpenObjective, layers: Layers) -> None:
        self._objective = objective
        self._layers = layers
        self._wanted: str | None = None
        self._seen: list[Tensor] = []
        self._sizes: dict[str, Tensor] | None = None
        self._watch = ForwardRecorder(objective.module, layers, self._see)

    def squares(self, v: Tensor, distance: float, layer: str | None, *, halved: bool = False) -> Tensor:
        """|dy|^2 of `layer`, 0 for None, and |dz|^2, by derivatives along `v`: shape (2, 2).

        In the second row those of the difference to derivatives at half the distance; of 0 else.
        """
        objective = self._objective
        distances = [distance, distance / 2] if halved else [distance]
        objective.counts.forwards += 2 * len(distances)
        self._wanted = layer

        def compute() -> Tensor:
            total = torch.zeros(2, 2, dtype=torch.float64, device=objective.layout.device)
            for sample in objective.chunks:
                last = None
                for row, h in zip(total, distances, strict=False):
                    up, down = (self._at(sample, sign * h * v) for sign in (1.0, -1.0))
                    change = [_difference(a, b, 2 * h) for a, b in zip(up, down, strict=True)]
                    for k, parts in enumerate(change):
                        parts = parts if last is None else _difference(parts, last[k], 1.0)
                        row[k] += sum(map(_square, parts))
                    last = change
            return total

        return objective.processes.mean(objective.processes.run_together(compute))

    def sizes(self) -> Tensor:
        """|y|^2 of each layer, and of the outputs: shape (layers + 1,)."""
        objective = self._objective
        objective.counts.forwards += 1

        def compute() -> Tensor:
            total = torch.zeros(
                len(self._layers) + 1, dtype=torch.float64, device=objective.layout.device
            )
            for sample in objective.chunks:
                self._sizes = {}
                _, outputs = self._at(sample, None)
                for i, name in enumerate(self._layers):
                    total[i] += self._sizes.get(name, 0.0)
                total[-1] += sum(map(_square, outputs))
                self._sizes = None
            return total

        return objective.processes.mean(objective.processes.run_together(compute))

    def _at(
        self, sample: RecordedBatch, displacement: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """What the wanted layer returns, and the outputs."""

        def of_loss(_: RecordedBatch, loss: Tensor, __: list[Tensor]) -> list[Tensor]:
            refuse_detached(loss)
            outputs = [z.detach() for z in self._watch.outputs(loss)]
            self._watch.clear()
            return outputs

        evaluation = self._objective.evaluation
        loss_fn = _record_forwards(self._objective, self._watch)
        (outputs,) = list(
            evaluation.map_losses(of_loss, [sample], loss_fn=loss_fn, displacement=displacement)
        )
        seen, self._seen = self._seen, []
        return seen, outputs

    def _see(self, name: str, y: Tensor) -> None:
        if self._sizes is not None:
            self._sizes[name] = _square(y) + self._sizes.get(name, 0.0)
        elif name == self._wanted:
            self._seen.append(y.detach().clone())  # what follows may write to it


class _JacobianProduct:
    """J v for the Jacobian J of `results` by `leaves`."""

    def __init__(self, results: Sequence[Tensor], leaves: Sequence[Tensor]) -> None:
        self._seeds = [torch.zeros_like(r, requires_grad=True) for r in results]
        self._transposed: Sequence[Tensor | None] = [None] * len(leaves)
        if results:
            with named_where_missing():
                self._transposed = torch.autograd.grad(
                    list(results), list(leaves), self._seeds, create_graph=True, allow_unused=True
                )

    def squared(self, vectors: Sequence[Tensor], of: Sequence[int] | None = None) -> Tensor:
        """|J v|^2, v in the leaves `of` these numbers; None: in all."""
        over = self._transposed if of is None else [self._transposed[i] for i in of]
        return torch.as_tensor(sum(map(_square, derivatives(over, self._seeds, vectors))))


class _Place(torch.autograd.Function):
    """The place of a tensor in its graph, also once what follows has written to the tensor."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


def _place(y: Tensor) -> Tensor:
    with torch.enable_grad():
        return cast(Tensor, _Place.apply(y))  # type: ignore[no-untyped-call]


def _record_forwards(objective: OpenObjective, watch: ForwardRecorder) -> Callable[[Any], Any]:
    loss_fn = objective.loss_fn

    def recorded_loss(batch: Any) -> Any:
        with watch.watching():
            return loss_fn(batch)

    return recorded_loss


def _square(t: Tensor) -> Tensor:
    flat = t.detach().reshape(-1)
    return local_dot(flat, flat)


def _difference(a: Sequence[Tensor], b: Sequence[Tensor], step: float) -> list[Tensor]:
    """(a - b) / step, in float64."""
    if [t.shape for t in a] != [t.shape for t in b]:
        raise CurvwatchError(
            "a layer or the network returns outputs of other shapes when its weights change slightly, "
            "so there is no change to measure"
        )
    return [(x.double() - y.double()) / step for x, y in zip(a, b, strict=True)]


def _restrict(v: Tensor, places: Sequence[slice]) -> Tensor:
    """`v` with zeros everywhere else."""
    kept = torch.zeros_like(v)
    for p in places:
        kept[p] = v[p]
    return kept
