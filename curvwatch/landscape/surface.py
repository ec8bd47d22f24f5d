"""The loss as a function of flat weights, whatever it is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import astuple, dataclass, replace
from importlib.util import find_spec
from math import prod
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from curvwatch.errors import CurvwatchError
from curvwatch.objective import Counts
from curvwatch.operators.base import FunctionOperator, SymmetricOperator

T = TypeVar("T")


def progress_bar(items: Sequence[T], label: str, *, progress: bool) -> Iterator[T]:
    """`items` one by one, with a progress bar on a terminal where tqdm is installed."""
    bar: Iterable[T] = items
    # lightning brings it, but may not for ever
    if progress and find_spec("tqdm") is not None:
        from tqdm import tqdm

        bar = tqdm(items, desc=label, leave=False, disable=None)
    yield from bar


class CountCosts:
    """What a surface spends in the block.

    Args:
        surface: which counts.

    Attributes:
        cost: in passes over all batches, when the block has ended.
    """

    def __init__(self, surface: Surface) -> None:
        self._surface = surface
        self.cost = Counts()

    def __enter__(self) -> CountCosts:
        self._before = replace(self._surface.counts)
        return self

    def __exit__(self, *_: object) -> None:
        now, before = astuple(self._surface.counts), astuple(self._before)
        self.cost = Counts(*(n - b for n, b in zip(now, before, strict=True)))


def total(*costs: Counts) -> Counts:
    """The sum of them."""
    return Counts(*map(sum, zip(*map(astuple, costs), strict=True)))


@dataclass(frozen=True)
class Group:
    """One parameter's place in a flat vector.

    Attributes:
        name: of the parameter.
        shape: of the parameter.
        start: index of its first entry.
    """

    name: str
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def slice(self) -> slice:
        """Where it lies in a flat vector."""
        return slice(self.start, self.start + self.size)

    def of(self, w: Tensor) -> Tensor:
        """Its part of `w` (size,), a view of its own shape."""
        return w[self.slice].view(self.shape)


def groups_of(shapes: Sequence[tuple[str, Sequence[int]]]) -> tuple[Group, ...]:
    """Lay parameters, each a name and a shape, one behind the other."""
    groups, start = [], 0
    for name, shape in shapes:
        groups.append(Group(name, tuple(shape), start))
        start += groups[-1].size
    return tuple(groups)


class Surface(Protocol):
    """A loss as a function of flat weights of shape (size,)."""

    @property
    def start(self) -> Tensor:
        """The weights when the surface was made, shape (size,)."""

    @property
    def groups(self) -> tuple[Group, ...]:
        """Which parameter lies where; together they are the whole vector."""

    @property
    def counts(self) -> Counts:
        """What was spent so far, in passes over all batches."""

    @property
    def size(self) -> int:
        """Number of weights."""

    @property
    def dtype(self) -> torch.dtype:
        """Of flat vectors."""

    @property
    def device(self) -> torch.device:
        """Of flat vectors."""

    def open(self) -> AbstractContextManager[object]:
        """Keep what evaluations need at hand, until the end of the block; opening twice is fine."""

    def loss(self, w: Tensor) -> float:
        """f(w); nan and inf are values like others."""

    def gradient(self, w: Tensor) -> tuple[float, Tensor]:
        """f(w) and its gradient, shape (size,)."""

    def hessian(self, w: Tensor | None = None) -> AbstractContextManager[SymmetricOperator]:
        """The Hessian at `w` (default: the start), until the end of the block; not while it is open."""


class FunctionSurface:
    """A surface from a plain function of a flat tensor; derivatives are autograd's.

    Args:
        function: from weights of shape (size,) to a loss of shape ().
        start: the weights that slices go through, shape (size,).
        shapes: name and shape of each parameter in it; None: one vector called `w`.

    Attributes:
        start: a copy of what was given.
        groups: which parameter lies where.
        counts: what was spent so far.

    Raises:
        ValueError: `start` is no vector, or `shapes` have another number of entries.

    Example:
        >>> surface = FunctionSurface(lambda w: (w**2).sum() / 2, torch.ones(3))
        >>> surface.loss(surface.start)
        1.5
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        start: Tensor,
        *,
        shapes: Sequence[tuple[str, Sequence[int]]] | None = None,
    ) -> None:
        if start.ndim != 1 or not start.is_floating_point():
            raise ValueError(
                f"start of shape {tuple(start.shape)}, {start.dtype}: a flat vector of floating-point "
                "numbers is needed"
            )
        self.groups = groups_of([("w", tuple(start.shape))] if shapes is None else shapes)
        total = sum(group.size for group in self.groups)
        if total != start.numel():
            raise ValueError(f"shapes hold {total} entries in all, and start has {start.numel()}")
        self.function = function
        self.start = start.detach().clone()
        self.counts = Counts()

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.start.numel()

    @property
    def dtype(self) -> torch.dtype:
        """Of flat vectors."""
        return self.start.dtype

    @property
    def device(self) -> torch.device:
        """Of flat vectors."""
        return self.start.device

    @contextmanager
    def open(self) -> Iterator[FunctionSurface]:
        """There is nothing to prepare."""
        yield self

    def loss(self, w: Tensor) -> float:
        """f(w)."""
        self.counts.forwards += 1
        return float(self.function(checked(self, w).detach()))

    def gradient(self, w: Tensor) -> tuple[float, Tensor]:
        """f(w) and its gradient, shape (size,)."""
        self.counts.gradients += 1
        leaf = checked(self, w).detach().clone().requires_grad_()
        with torch.enable_grad():
            loss = self.function(leaf)
            (gradient,) = torch.autograd.grad(loss, leaf)
        return float(loss.detach()), gradient

    @contextmanager
    def hessian(self, w: Tensor | None = None) -> Iterator[SymmetricOperator]:
        """The Hessian at `w`, by default at the start."""
        leaf = (self.start if w is None else checked(self, w)).detach().clone().requires_grad_()
        self.counts.gradients += 1
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self.function(leaf), leaf, create_graph=True)

        def product(v: Tensor) -> Tensor:
            self.counts.products += 1
            if not gradient.requires_grad:  # a linear function
                return torch.zeros_like(v)
            return torch.autograd.grad(gradient, leaf, v, retain_graph=True)[0]

        yield FunctionOperator(product, size=self.size, dtype=self.dtype, device=self.device)


def checked(surface: Surface, w: Tensor) -> Tensor:
    """`w` on the surface's device, in its dtype.

    Raises:
        CurvwatchError: it has another shape.
    """
    if tuple(w.shape) != (surface.size,):
        raise CurvwatchError(
            f"weights of shape {tuple(w.shape)}: a flat vector of shape ({surface.size},) is needed; "
            "weights_of(checkpoint, surface) makes one"
        )
    return w.to(device=surface.device, dtype=surface.dtype)
