"""Surfaces whose slices are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from curvwatch import Objective
from curvwatch.landscape import FunctionSurface, Surface, surface_of
from tests.support.cases import CASES


@dataclass(frozen=True)
class Bowl:
    """w'Aw/2 + b'w in float64, A symmetric and not definite; two matrices and a bias in it."""

    A: Tensor
    b: Tensor
    start: Tensor

    shapes = (("first", (2, 3)), ("bias", (3,)), ("second", (2, 2, 1)))

    @classmethod
    def drawn(cls) -> Bowl:
        generator = torch.Generator().manual_seed(3)
        A = torch.randn(13, 13, generator=generator, dtype=torch.float64)
        b, start = torch.randn(2, 13, generator=generator, dtype=torch.float64)
        return cls(A + A.T, b, start)

    def __call__(self, w: Tensor) -> Tensor:
        return w @ self.A @ w / 2 + self.b @ w

    def surface(self) -> FunctionSurface:
        return FunctionSurface(self, self.start, shapes=self.shapes)


class Weights(nn.Module):
    """A module that is its weights alone, of the bowl's shapes."""

    def __init__(self, bowl: Bowl) -> None:
        super().__init__()
        parts = bowl.start.split([6, 3, 4])
        for (name, shape), part in zip(bowl.shapes, parts, strict=True):
            setattr(self, name, nn.Parameter(part.reshape(shape).clone()))

    def flat(self) -> Tensor:
        return torch.cat([p.reshape(-1) for p in self.parameters()])


def bowl_objective(bowl: Bowl) -> Objective:
    """The bowl as the loss of a module; the batches add up to one."""
    module = Weights(bowl)
    batches = [torch.zeros(3, 1), torch.zeros(1, 1)]
    return Objective.of_batches(module, lambda _: bowl(module.flat()), batches)


def case_surface(name: str, sizes: Sequence[int] = (6, 3), **options: object) -> Surface:
    """Of a model in tests/support/cases.py, in the default dtype."""
    case = CASES[name]
    return surface_of(
        case.model(),
        [case.batch(n) for n in sizes],
        loss_fn=lambda model, b: case.loss(model(b[0]), b[1]),
        **options,  # type: ignore[arg-type]
    )
