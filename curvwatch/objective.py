"""A loss as a function of the parameters, on fixed batches, with its derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from curvwatch.errors import CurvwatchError
from curvwatch.isolation import Loan, Memory, lend
from curvwatch.losses import named_where_missing, refuse_once_differentiable, scalar_loss
from curvwatch.randomness import RandomState
from curvwatch.trees import batch_size, clone_batch
from curvwatch.vectors import Layout, dot


@dataclass(frozen=True)
class Sample:
    """One batch of an objective and what else its loss depends on.

    Attributes:
        batch: what the loss function is called with; cloned before each call.
        weight: factor of this batch's loss in the sum.
        random: random state the loss is computed from; None: the one at the opening.
        memory: buffers and attributes the loss is computed from; None: those at the opening.
    """

    batch: Any
    weight: float = 1.0
    random: RandomState | None = None
    memory: Memory | None = None


@dataclass
class Counts:
    """What a reading cost, in passes over all of its batches."""

    forwards: int = 0
    gradients: int = 0
    products: int = 0


class Objective:
    """f(w) = sum of weight x loss over `samples`, as a function of `params`.

    Args:
        module: whose weights the loss depends on; it is lent out during a reading and given back bit
            for bit (see `curvwatch.isolation`).
        loss_fn: from a sample's batch to a scalar loss; it uses `module`.
        samples: the batches.
        params: the weights to differentiate by, default all of `module` with requires_grad.
        train: True and False force train and eval mode, None keeps the module's own.
        average: averages a tensor over processes; None for one process.
        processes: how many there are.

    Raises:
        CurvwatchError: no samples, or no parameter that could be differentiated.

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
        samples: Sequence[Sample],
        *,
        params: Sequence[Tensor] | None = None,
        train: bool | None = None,
        average: Callable[[Tensor], Tensor] | None = None,
        processes: int = 1,
    ) -> None:
        if not samples:
            raise CurvwatchError("the objective has no batch: give at least one")
        if params is None:
            params = [p for p in module.parameters() if p.requires_grad]
        self.module = module
        self.loss_fn = loss_fn
        self.samples = tuple(samples)
        self.params = tuple(params)
        self.layout = Layout.of(self.params)
        self.train = train
        self.average = average
        self.processes = processes
        self.counts = Counts()

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
        samples = [Sample(b, weight=n / total) for b, n in zip(batches, sizes, strict=True)]
        return cls(module, loss_fn, samples, **options)

    @contextmanager
    def open(self, weights: Mapping[int, Tensor] | None = None) -> Iterator[Opened]:
        """Borrow the module for a reading.

        Args:
            weights: from `id(parameter)` to the value it has in this reading; parameters that are not
                named have their present value.
        """
        with lend(self.module) as loan:
            yield Opened(self, loan, dict(weights or {}))


@dataclass
class Linearization:
    """f at one point: its loss, gradient and Hessian-vector products.

    Attributes:
        loss: f(w), a float.
        gradient: of shape (size,).
        product: from v of shape (size,) to Hv; one backward pass through the kept graph when the
            objective has one batch, else the graph is built again, batch by batch, so memory stays
            that of one batch.
        quotient_stderr: from a unit v to the standard error of v'Hv, from its spread over the
            batches; nan where there is one batch. It costs one product.
    """

    loss: float
    gradient: Tensor
    product: Callable[[Tensor], Tensor] = field(repr=False)
    quotient_stderr: Callable[[Tensor], float] = field(repr=False)


class Opened:
    """An objective whose module is on loan; made by `Objective.open`."""

    def __init__(self, objective: Objective, loan: Loan, weights: dict[int, Tensor]) -> None:
        self._objective = objective
        self._loan = loan
        self._weights = weights
        self._placed: list[Tensor] | None = None
        self.layout = objective.layout
        self.counts = objective.counts
        self._point: Linearization | None = None
        # each evaluation without a random state of its own starts from the same one
        self._random = Memory.of(objective.module).random_state()

    @property
    def batches(self) -> int:
        """How many batches f is a mean of, those of other processes included."""
        return len(self._samples) * self._objective.processes

    def loss(self, displacement: Tensor | None = None) -> float:
        """f(w + displacement), forward passes alone."""
        leaves = self._leaves(displacement)

        def total() -> Tensor:
            # with gradients on: training_step may take some itself (a penalty on them, a PINN)
            return torch.stack([self._evaluate(s, leaves).detach() for s in self._samples]).sum()

        self.counts.forwards += 1
        return float(self._averaged(self._agreed(total)))

    def gradient(self, displacement: Tensor | None = None) -> tuple[float, Tensor]:
        """f(w + displacement) and its gradient of shape (size,)."""
        leaves = self._leaves(displacement)

        def total() -> Tensor:
            loss, gradient = self._zero(), self._zero(self.layout.size)
            for sample in self._samples:
                value = self._evaluate(sample, leaves)
                gradient += self.layout.flatten(self._differentiate(value, leaves))
                loss += value.detach()
            return torch.cat([loss[None], gradient])

        self.counts.gradients += 1
        result = self._averaged(self._agreed(total))
        return float(result[0]), result[1:]

    def linearize(self) -> Linearization:
        """f, its gradient and its Hessian-vector products at w; built once, however often asked for.

        Raises:
            CurvwatchError: the loss has no second derivative that can be trusted (a function marked
                `once_differentiable` is in the graph), or it is no scalar.
        """
        if self._point is None:
            self._point = self._linearized()
        return self._point

    def _linearized(self) -> Linearization:
        leaves = self._leaves(None)
        kept: list[tuple[Tensor | None, ...]] = []

        def total() -> Tensor:
            loss, gradient = self._zero(), self._zero(self.layout.size)
            for sample in self._samples:
                value = self._evaluate(sample, leaves)
                refuse_once_differentiable(value, self._objective.module)
                grads = self._differentiate(value, leaves, create_graph=True)
                gradient += self.layout.flatten(grads)
                loss += value.detach()
                if len(self._samples) == 1:
                    kept.append(grads)
            return torch.cat([loss[None], gradient])

        self.counts.gradients += 1
        result = self._averaged(self._agreed(total))

        def product(v: Tensor) -> Tensor:
            self.counts.products += 1
            parts = self.layout.split(v)
            if kept:
                # a checkpointed block runs again during this backward pass: with these leaves
                if self._placed is not leaves:
                    self._place(self._samples[0], leaves)
                one = kept[0]
                return self._averaged(self._agreed(lambda: self._product(one, leaves, parts)))
            self.counts.gradients += 1

            def total() -> Tensor:
                hv = self._zero(self.layout.size)
                for part in products_of_each(parts):
                    hv += part
                return hv

            return self._averaged(self._agreed(total))

        def products_of_each(parts: list[Tensor]) -> Iterator[Tensor]:
            for sample in self._samples:
                value = self._evaluate(sample, leaves)
                grads = self._differentiate(value, leaves, create_graph=True)
                yield self._product(grads, leaves, parts)

        def quotient_stderr(v: Tensor) -> float:
            count = self.batches
            if count == 1:
                return math.nan
            self.counts.products += 1
            self.counts.gradients += 1

            # w_i q_i: what each batch adds to the quotient of the mean
            def shares() -> Tensor:
                parts = products_of_each(self.layout.split(v))
                quotients = [dot(v, hv) for hv in parts]
                return torch.tensor(quotients, dtype=self.layout.dtype, device=self.layout.device)

            each = self._agreed(shares)
            mean = self._averaged(each.sum())
            weights = each.new_tensor([s.weight for s in self._samples])
            spread = float(self._averaged((each - weights * mean).square().sum()))
            spread /= self._objective.processes
            return math.sqrt(spread * count / (count - 1))

        return Linearization(float(result[0]), result[1:], product, quotient_stderr)

    @property
    def _samples(self) -> tuple[Sample, ...]:
        return self._objective.samples

    def _zero(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.layout.dtype, device=self.layout.device)

    def _leaves(self, displacement: Tensor | None) -> list[Tensor]:
        # copies: training_step may write to a weight
        base = [self._weights.get(id(p), p).detach().clone() for p in self._objective.params]
        if displacement is not None:
            parts = self.layout.split(displacement)
            base = [w + d for w, d in zip(base, parts, strict=True)]
        return [w.requires_grad_() for w in base]

    def _place(self, sample: Sample, leaves: list[Tensor]) -> None:
        objective = self._objective
        substitutes = {id(p): leaf for p, leaf in zip(objective.params, leaves, strict=True)}
        for key, weight in self._weights.items():
            if key not in substitutes:  # a copy: training_step may write to it
                substitutes[key] = weight.clone()
        self._loan.place(
            substitutes,
            memory=sample.memory,
            train=objective.train,
            random=sample.random or self._random,
        )
        self._placed = leaves

    def _evaluate(self, sample: Sample, leaves: list[Tensor]) -> Tensor:
        self._place(sample, leaves)
        with torch.inference_mode(False), torch.enable_grad():
            loss = scalar_loss(self._objective.loss_fn(clone_batch(sample.batch)))
        return loss.to(device=self.layout.device, dtype=self.layout.dtype) * sample.weight

    def _differentiate(
        self, loss: Tensor, leaves: list[Tensor], *, create_graph: bool = False
    ) -> tuple[Tensor | None, ...]:
        if not loss.requires_grad:
            raise CurvwatchError(
                "the loss does not depend on any parameter that is trained: it was detached, "
                "computed under torch.no_grad, or uses other parameters than the optimizer's"
            )
        with named_where_missing():
            grads = torch.autograd.grad(loss, leaves, create_graph=create_graph, allow_unused=True)
        if all(g is None for g in grads):
            raise CurvwatchError(
                f"the loss does not depend on any of the optimizer's {len(leaves)} parameters"
            )
        return grads

    def _product(
        self, grads: tuple[Tensor | None, ...], leaves: list[Tensor], parts: list[Tensor]
    ) -> Tensor:
        pairs = [(g, v) for g, v in zip(grads, parts, strict=True) if g is not None and g.requires_grad]
        if not pairs:  # linear in every parameter
            return self._zero(self.layout.size)
        outputs, vectors = zip(*pairs, strict=True)
        with named_where_missing():
            hv = torch.autograd.grad(outputs, leaves, vectors, retain_graph=True, allow_unused=True)
        return self.layout.flatten(hv)

    def _agreed(self, compute: Callable[[], Tensor]) -> Tensor:
        """Run `compute`; when it fails on one process it fails on all, so none waits for ever."""
        if self._objective.average is None:
            return compute()
        failure: Exception | None = None
        result = None
        try:
            result = compute()
        except Exception as error:
            failure = error
        failed = float(self._objective.average(self._zero() + (failure is not None)))
        if failure is not None:
            raise failure
        if failed or result is None:
            raise CurvwatchError("the reading failed on another process, see its log")
        return result

    def _averaged(self, value: Tensor) -> Tensor:
        average = self._objective.average
        return value if average is None else average(value)
