"""An objective whose batches are differentiated twice in parts, at the memory of one part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from curvwatch.objective.chunk_size import ChunkSize, cannot_be_cut, chunk_mismatch, coupling
from curvwatch.objective.evaluation import Counts, Evaluation, Graph
from curvwatch.objective.flat_layout import Layout, summed
from curvwatch.objective.isolation.containers import tensors_in
from curvwatch.objective.linearization import Linearization
from curvwatch.objective.loss_checks import computes_in_half
from curvwatch.objective.memory import Footprint
from curvwatch.objective.processes import Processes
from curvwatch.objective.samples import RecordedBatch, count_of


class WholeBatches(Protocol):
    """An objective whose batches are whole: an `OpenObjective`."""

    module: nn.Module
    train: bool | None
    samples: Sequence[RecordedBatch]
    layout: Layout
    counts: Counts
    processes: Processes
    evaluation: Evaluation

    def gradient(self) -> tuple[float, Tensor]:
        """Loss and gradient, shape (size,)."""

    def by_graph(self) -> Linearization:
        """The linearization with whole batches."""

    def stderr(self, quotients: Callable[[], list[float]]) -> float:
        """Standard error of the mean of `quotients`, one a batch."""


class ChunkedDerivatives:
    """Derivatives of `opened`, whose batches are taken in chunks.

    Args:
        opened: whose derivatives are made by automatic differentiation.
        chunk_size: how large chunks are.
    """

    def __init__(self, opened: WholeBatches, chunk_size: ChunkSize) -> None:
        self._opened = opened
        self._processes = opened.processes
        self._evaluation = opened.evaluation
        self._chunk_size = chunk_size
        self._point: Linearization | None = None
        self._whole: Linearization | None = None
        self._checked = False
        self._chunk_counts = self._count_chunks()

    @property
    def needed(self) -> bool:
        """Whether a batch goes into more than one part."""
        return self._chunk_counts is not None

    @property
    def chunks(self) -> Sequence[RecordedBatch]:
        """The parts, once a product has shown that they add up; before, or else, whole batches."""
        if not self._checked:
            return self._opened.samples
        return [part for parts in self._parts() for part in parts]

    def linearize(self, known: tuple[float, Tensor] | None) -> Linearization:
        """As `OpenObjective.linearize`; the first product checks loss and gradient that are `known`."""
        self._known = known is not None
        loss, gradient = self._opened.gradient() if known is None else known
        self._point = Linearization(
            self._opened.layout,
            loss,
            gradient,
            self._product,
            lambda v: self._opened.stderr(lambda: self._quotients(v)),
        )
        return self._point

    def _count_chunks(self) -> list[int] | None:
        """Into how many parts each batch goes; None: all stay whole. The same on all processes."""
        opened, chunk_size = self._opened, self._chunk_size
        if chunk_size.refused is not None:
            return None
        if self._processes.true_on_any(chunk_size.needs_measurement(opened.samples)):
            step, v = self._measured_step()
            failed = False
            try:
                self._measure(step, v)
            except Exception:  # the whole batch may do
                failed = True
            if self._processes.true_on_any(failed):
                chunk_size.size = max(s.size for s in opened.samples)
        assert chunk_size.size is not None
        counts = self._equal_counts(count_of(opened.samples, chunk_size.size))
        if max(counts) == 1:
            return None
        reason = coupling(opened.module, train=opened.train)
        if reason is not None:
            chunk_size.refuse(reason)
            return None
        return counts

    def _equal_counts(self, counts: list[int]) -> list[int]:
        """One number of chunks for all processes: training_step, run on each, may communicate."""
        opened = self._opened
        if opened.processes.size == 1:
            return counts
        wanted = math.ceil(math.log2(max(counts)))
        possible = int(math.log2(min(s.size for s in opened.samples)))
        exponent = 0
        while _is_too_few(opened.processes, exponent, wanted, possible):
            exponent += 1
        return [1 << exponent] * len(counts)

    @property
    def _largest(self) -> RecordedBatch:
        return max(self._opened.samples, key=lambda s: s.size)

    def _measured_step(self) -> tuple[int, Tensor]:
        """The bytes that a step of training takes for its batch, and some vector."""
        evaluation = self._evaluation
        with Footprint() as step:
            gradient_and_loss = self._processes.run_together(lambda: summed(evaluation.gradients(None)))
        # what training does not have: copies of the weights and of the batch
        copies = [*evaluation.weights, *tensors_in(self._largest.batch)]
        return step.peak - sum(t.numel() * t.element_size() for t in copies), gradient_and_loss[:-1]

    def _measure(self, step: int, v: Tensor) -> None:
        """Find the size of parts."""
        opened, evaluation, largest = self._opened, self._evaluation, self._largest

        def graph(examples: int) -> int:
            with Footprint() as footprint:
                part = largest.part(0, examples, draws=False)
                list(evaluation.map_graphs(lambda graph: graph.product(v), [part]))
            return int(footprint.peak)

        self._chunk_size.choose(
            opened.samples,
            step=step,
            graph=graph,
            weights=v.numel() * v.element_size(),
            device=v.device,
        )

    def _parts(self) -> list[list[RecordedBatch]]:
        self._chunk_size.draws |= self._evaluation.drew
        assert self._chunk_counts is not None
        return [
            sample.parts(count, draws=self._chunk_size.draws)
            for sample, count in zip(self._opened.samples, self._chunk_counts, strict=True)
        ]

    def _of_graphs(self, compute: Callable[[Graph], Tensor]) -> Iterator[Tensor]:
        # cut before anything is computed
        parts = [part for parts in self._parts() for part in parts]
        return self._evaluation.map_graphs(compute, parts)

    def _product(self, v: Tensor) -> Tensor:
        if self._whole is not None:
            return self._whole.product(v)
        if not self._checked:
            return self._first_product(v)
        self._count_product()
        return self._processes.mean(
            self._processes.run_together(
                lambda: summed(self._of_graphs(lambda graph: graph.product(v)))
            )
        )

    def _first_product(self, v: Tensor) -> Tensor:
        """Check that the parts add up to the whole; their losses and gradients are made anyway."""
        point = self._point
        assert point is not None
        reason = None
        try:
            hv, parts, scale, half = self._summed(v)
            if not self._chunk_size.draws and self._processes.true_on_any(self._evaluation.drew):
                self._chunk_size.draws = True
                hv, parts, scale, half = self._summed(v)
        except Exception as error:
            reason = cannot_be_cut(error)
        else:
            reason = chunk_mismatch(parts, _joined(point), scale=scale, half=half)
            if reason is not None and self._known:  # perhaps the loss is not the known one
                point.loss, point.gradient = self._opened.gradient()
                reason = chunk_mismatch(parts, _joined(point), scale=scale, half=half)
        if reason is None:
            self._checked = True
            return hv
        whole = self._whole = self._opened.by_graph()
        point.loss, point.gradient = whole.loss, whole.gradient
        hv = whole.product(v)
        self._chunk_size.refuse(reason)
        return hv

    def _summed(self, v: Tensor) -> tuple[Tensor, Tensor, tuple[float, float], bool]:
        """Product, gradient joined with loss, the sum of their sizes, and whether in half precision."""
        self._count_product()
        layout = self._opened.layout
        half = None

        def all_of(graph: Graph) -> Tensor:
            nonlocal half
            half = computes_in_half(graph.gradient) if half is None else half
            both = graph.gradient_and_loss()
            sizes = [math.sqrt(layout.dot(both[:-1], both[:-1])), abs(float(both[-1]))]
            return torch.cat([graph.product(v), both, both.new_tensor(sizes)])

        total = self._processes.mean(
            self._processes.run_together(lambda: summed(self._of_graphs(all_of)))
        )
        hv, parts, sizes = total.split([layout.size, layout.size + 1, 2])
        return hv, parts, (float(sizes[0]), float(sizes[1])), bool(half)

    def _quotients(self, v: Tensor) -> list[float]:
        self._count_product()
        dot = self._opened.layout.dot
        return [
            sum(self._evaluation.map_graphs(lambda graph: dot(v, graph.product(v)), parts))
            for parts in self._parts()
        ]

    def _count_product(self) -> None:
        self._opened.counts.products += 1
        self._opened.counts.gradients += 1


def _is_too_few(processes: Processes, exponent: int, wanted: int, possible: int) -> bool:
    """Whether 2^exponent parts are too few for a process, and possible for all."""
    too_few = processes.true_on_any(exponent < wanted)
    return too_few and not processes.true_on_any(exponent >= possible)


def _joined(point: Linearization) -> Tensor:
    return torch.cat([point.gradient, point.gradient.new_tensor([point.loss])])
