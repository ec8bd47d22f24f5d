"""A loss as a function of the parameters, on fixed batches, with its derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from curvwatch.errors import CurvwatchError
from curvwatch.objective.chunk_size import ChunkSize
from curvwatch.objective.chunked import ChunkedDerivatives
from curvwatch.objective.evaluation import Counts, Evaluation, EvaluationInputs, Graph
from curvwatch.objective.flat_layout import Layout, summed
from curvwatch.objective.functional import FunctionalEvaluation
from curvwatch.objective.in_place import evaluate_in_place
from curvwatch.objective.isolation.containers import batch_size
from curvwatch.objective.isolation.isolate import isolated
from curvwatch.objective.isolation.object_graph import KeptGraph
from curvwatch.objective.layers import parameter_names
from curvwatch.objective.linearization import Linearization
from curvwatch.objective.memory import release_free_memory
from curvwatch.objective.processes import Processes
from curvwatch.objective.samples import RecordedBatch

# how Hessian-vector products are made
Products = Literal["exact", "difference"]


class Objective:
    """f(w) = sum of weight x loss over `samples`, as a function of `params`.

    Args:
        module: whose weights the loss depends on; it is isolated during a reading and put back bit
            for bit (see `curvwatch.objective.isolation.isolate`).
        loss_fn: from a sample's batch to a scalar loss; it uses `module`.
        samples: the batches.
        params: the weights to differentiate by, default all of `module` with requires_grad.
        train: True and False force train and eval mode, None keeps the module's own.
        hvp: "exact": by automatic differentiation; "difference": by central differences of gradients,
            for losses without a second derivative in torch, and always for weights that are spread
            over processes. A difference sees kinks that the exact product does not.
        chunking: for Hessian-vector products each batch is taken in parts of at most so many examples,
            so that they take the memory of one part; for a loss that is a mean over examples, and where
            the parts do not add up to the whole batch it stays whole, and `chunking.refused` says why.
            A `ChunkSize()` finds the size itself. None: batches are whole.
        processes: those that measure together; None: this one alone.
        kept: the graph of `module`, where it was walked over before.

    Raises:
        CurvwatchError: no samples, or no parameter that could be differentiated.
        ValueError: `hvp` is an unknown word.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False).double()
        >>> x = torch.tensor([[2.0]], dtype=torch.float64)
        >>> objective = Objective(layer, lambda x: (layer(x) ** 2).sum() / 2, [Sample(x)])
        >>> with objective.open() as f:
        ...     f.linearize().product(torch.ones(1, dtype=torch.float64))
        tensor([4.], dtype=torch.float64)
    """

    def __init__(
        self,
        module: nn.Module,
        loss_fn: Callable[[Any], Any],
        samples: Sequence[RecordedBatch],
        *,
        params: Sequence[Tensor] | None = None,
        train: bool | None = None,
        hvp: Products = "exact",
        chunking: int | ChunkSize | None = None,
        processes: Processes | None = None,
        kept: KeptGraph | None = None,
    ) -> None:
        check_products(hvp)
        if not samples:
            raise CurvwatchError("the objective has no batch: give at least one")
        if params is None:
            params = [p for p in module.parameters() if p.requires_grad]
        self.module = module
        self.loss_fn = loss_fn
        self.samples = tuple(samples)
        self.params = tuple(params)
        self.layout = Layout.of(self.params)
        # now: once the module is isolated, others are in their places
        self.names = parameter_names(module, self.params)
        self.train = train
        self.hvp: Products = "difference" if self.layout.sharded else hvp
        self.chunking = ChunkSize(chunking) if isinstance(chunking, int) else chunking
        self.processes = processes or Processes()
        self.counts = Counts()
        self._kept = kept

    @classmethod
    def of_batches(
        cls,
        module: nn.Module,
        loss_fn: Callable[[Any], Any],
        batches: Sequence[Any],
        **options: Any,
    ) -> Objective:
        """The mean loss over `batches`, each weighted by its number of examples."""
        sizes = [batch_size(b) for b in batches]
        total = sum(sizes)
        samples = [RecordedBatch(b, weight=n / total) for b, n in zip(batches, sizes, strict=True)]
        return cls(module, loss_fn, samples, **options)

    @contextmanager
    def open(self, weights: Mapping[int, Tensor] | None = None) -> Iterator[OpenObjective]:
        """Isolate the module for a reading.

        Args:
            weights: from `id(parameter)` to the value it has in this reading; parameters that are not
                named have their present value.
        """
        if self.layout.device.type == "cpu":
            release_free_memory()
        with isolated(self.module, self._kept) as isolated_module:
            inputs = EvaluationInputs(
                self.module,
                self.loss_fn,
                self.samples,
                self.params,
                self.layout,
                self.train,
                dict(weights or {}),
                # each evaluation without a random state of its own starts from the same one
                isolated_module.random,
            )
            if self.layout.sharded:
                with evaluate_in_place(inputs, isolated_module) as evaluation:
                    yield OpenObjective(self, inputs, evaluation)
            else:
                yield OpenObjective(self, inputs, FunctionalEvaluation(inputs, isolated_module))


class OpenObjective:
    """An objective whose module is isolated; made by `Objective.open`.

    Attributes:
        module: whose weights the loss depends on.
        names: of the weights that are differentiated by, as the module has them.
        loss_fn: from a batch to its loss.
        train: True or False where train or eval mode is forced; None: the module's own.
        hvp: how Hessian-vector products are made, "exact" or "difference".
        chunk_size: into how large parts batches go; None: they are whole.
        processes: those that measure together.
        evaluation: of the loss and its gradient at displaced weights.
        samples: its batches.
        layout: of flat vectors.
        counts: what was spent so far.
        known_loss: f(w), once it was computed with its gradient.
        known_gradient: that gradient, shape (size,).
    """

    def __init__(self, objective: Objective, inputs: EvaluationInputs, evaluation: Evaluation) -> None:
        self.module = objective.module
        self.names = objective.names
        self.loss_fn = objective.loss_fn
        self.train = objective.train
        self.hvp = objective.hvp
        self.chunk_size = objective.chunking
        self.processes = objective.processes
        self._inputs = inputs
        self.samples = inputs.samples
        self.evaluation = evaluation
        self.layout = objective.layout
        self.counts = objective.counts
        self.known_loss: float | None = None
        self.known_gradient: Tensor | None = None
        self._point: Linearization | None = None
        self._chunks: ChunkedDerivatives | None = None

    @property
    def batches(self) -> int:
        """How many batches f is a mean of, those of other processes included."""
        return len(self.samples) * self.processes.with_own_batches

    @property
    def chunks(self) -> Sequence[RecordedBatch]:
        """The batches; in chunks, once a product has shown that these add up."""
        return self.samples if self._chunks is None else self._chunks.chunks

    @property
    def is_chunked(self) -> bool:
        """Whether products take a batch in chunks, if these add up; known once it is linearized."""
        return self._chunks is not None

    @property
    def weights(self) -> Tensor:
        """w, shape (size,)."""
        inputs = self._inputs
        return self.layout.flatten([inputs.weights.get(id(p), p) for p in inputs.params])

    def loss(self, displacement: Tensor | None = None) -> float:
        """f(w + displacement), forward passes alone."""

        def total() -> Tensor:
            return torch.stack(list(self.evaluation.losses(displacement))).sum()

        self.counts.forwards += 1
        return float(self.processes.mean(self.processes.run_together(total)))

    def gradient(self, displacement: Tensor | None = None) -> tuple[float, Tensor]:
        """f(w + displacement) and its gradient of shape (size,)."""

        def total() -> Tensor:
            return summed(self.evaluation.gradients(displacement))

        self.counts.gradients += 1
        result = self._shared(self.processes.run_together(total))
        if displacement is None:
            self.known_loss, self.known_gradient = result
        return result

    def linearize(self, *, known: tuple[float, Tensor] | None = None) -> Linearization:
        """f, its gradient and its Hessian-vector products at w; built once, however often asked for.

        Args:
            known: loss and gradient, where the caller has them: saves a gradient where products are
                made in parts. The first product corrects `loss` and `gradient` where they are others.

        Raises:
            CurvwatchError: the loss has no second derivative that can be trusted (a function marked
                `once_differentiable` is in the graph), or it is no scalar.
        """
        if self._point is None:
            if self.hvp != "exact" or not self.evaluation.supports_graphs:
                self._point = self._by_differences()
            else:
                chunks = None if self.chunk_size is None else ChunkedDerivatives(self, self.chunk_size)
                self._chunks = chunks if chunks is not None and chunks.needed else None
                self._point = self._chunks.linearize(known) if self._chunks else self.by_graph()
        return self._point

    def by_graph(self) -> Linearization:
        """The linearization with whole batches."""
        evaluation = self.evaluation
        kept: list[Graph] = []

        def seen(graph: Graph) -> Tensor:
            if len(self.samples) == 1:
                kept.append(graph)
            return graph.gradient_and_loss()

        def total() -> Tensor:
            return summed(evaluation.map_graphs(seen))

        self.counts.gradients += 1
        loss, gradient = self._shared(self.processes.run_together(total))
        self.known_loss, self.known_gradient = loss, gradient

        def product(v: Tensor) -> Tensor:
            self.counts.products += 1
            if kept:
                return self.processes.mean(self.processes.run_together(lambda: kept[0].product(v)))
            self.counts.gradients += 1

            def total() -> Tensor:
                return summed(evaluation.map_graphs(lambda graph: graph.product(v)))

            return self.processes.mean(self.processes.run_together(total))

        def quotients(v: Tensor) -> list[float]:
            self.counts.products += 1
            self.counts.gradients += 1
            return list(evaluation.map_graphs(lambda graph: self.layout.dot(v, graph.product(v))))

        return Linearization(
            self.layout, loss, gradient, product, lambda v: self.stderr(lambda: quotients(v))
        )

    def _by_differences(self) -> Linearization:
        loss, gradient = self.gradient()
        distance = self._difference_distance()

        def product_at(v: Tensor, distance: float) -> Tensor:
            self.counts.products += 1
            norm = math.sqrt(self.layout.dot(v, v))
            if norm == 0.0:
                return torch.zeros_like(v)
            shift = v * (distance / norm)
            up, down = self.gradient(shift)[1], self.gradient(-shift)[1]
            return (up - down) * (norm / (2 * distance))

        def quotients(v: Tensor) -> list[float]:
            self.counts.products += 1
            self.counts.gradients += 2
            up, down = (
                [self.layout.dot(v, g[:-1]) for g in self.evaluation.gradients(sign * distance * v)]
                for sign in (1.0, -1.0)
            )
            return [(a - b) / (2 * distance) for a, b in zip(up, down, strict=True)]

        return Linearization(
            self.layout,
            loss,
            gradient,
            lambda v: product_at(v, distance),
            lambda v: self.stderr(lambda: quotients(v)),
            coarser=lambda v: product_at(v, 2 * distance),
        )

    def _difference_distance(self) -> float:
        """How far gradients are taken from w: 2 sqrt(eps) (1 + |w|) (Andrei 2009, section 3)."""
        eps = max(torch.finfo(dtype).eps for dtype in self.layout.dtypes)
        weights = self.weights
        return 2 * math.sqrt(eps) * (1 + math.sqrt(self.layout.dot(weights, weights)))

    def stderr(self, quotients: Callable[[], list[float]]) -> float:
        """Standard error of the mean of `quotients`, one a batch, each times the batch's weight."""
        count = self.batches
        if count == 1:
            return math.nan
        each = self.processes.run_together(
            lambda: torch.tensor(quotients(), dtype=self.layout.dtype, device=self.layout.device)
        )
        mean = self.processes.mean(each.sum())
        weights = each.new_tensor([s.weight for s in self.samples])
        spread = float(self.processes.mean((each - weights * mean).square().sum()))
        spread /= self.processes.with_own_batches
        return math.sqrt(spread * count / (count - 1))

    def _shared(self, result: Tensor) -> tuple[float, Tensor]:
        """Loss and gradient, joined in `result`, averaged over processes."""
        if self.evaluation.is_averaged:
            return float(self.processes.mean(result[-1])), result[:-1]
        result = self.processes.mean(result)
        return float(result[-1]), result[:-1]


def check_products(hvp: object) -> None:
    """Raise a ValueError unless `hvp` is a way to make Hessian-vector products."""
    if hvp not in get_args(Products):
        raise ValueError(
            f"hvp={hvp!r}: 'exact', or 'difference' for central differences of gradients, is needed"
        )
