"""Real optimizers on quadratics, with the preconditioner held still in one of two ways.

- *tiny*: weights of 1e-150, whose squares underflow to 0, so that only eps is left in P.
- *frozen*: the state other than momentum is put back before every step, so that P is any
  constant and time stands still at any t.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from curvwatch.stability import StabilityLaw, stability_law

MOMENTA = ("exp_avg", "momentum_buffer")
Make = Callable[[list[Tensor]], Optimizer]


class Frozen:
    """An optimizer whose state, momentum apart, is the same before every step."""

    def __init__(self, optimizer: Optimizer, state: dict[Tensor, dict[str, Tensor]]) -> None:
        self.optimizer = optimizer
        self.state = state

    def step(self) -> None:
        for param, entries in self.state.items():
            for key, value in entries.items():
                self.optimizer.state[param][key].copy_(value)
        self.optimizer.step()


def random_state(optimizer: Optimizer, t: int, generator: torch.Generator) -> Frozen:
    """Freeze an optimizer that has stepped once at step t and random second moments.

    A group may ask for a `t` of its own; that it is no setting of the optimizer does not matter.
    """
    frozen: dict[Tensor, dict[str, Tensor]] = {}
    for group in optimizer.param_groups:
        t_group = group.get("t", t)
        for param in group["params"]:
            entries: dict[str, Tensor] = {}
            for key, value in optimizer.state[param].items():
                if key in MOMENTA or value is None:
                    continue
                if key == "step":
                    entries[key] = torch.full_like(value, t_group - 1)
                elif key == "mu_product":
                    beta1, psi = group["betas"][0], group["momentum_decay"]
                    mus = [beta1 * (1 - 0.5 * 0.96 ** (i * psi)) for i in range(1, t_group)]
                    entries[key] = torch.tensor(mus, dtype=torch.float64).prod().to(value)
                else:
                    random = torch.rand(value.shape, generator=generator, dtype=value.dtype)
                    # the mean is kept small, for the centered variance to be positive
                    entries[key] = 0.3 * random if key == "grad_avg" else 0.2 + random
            frozen[param] = entries
    return Frozen(optimizer, frozen)


def reset(optimizer: Optimizer, weights: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Put the weights back and the momentum to 0."""
    for param, value in weights:
        param.copy_(value)
    for state in optimizer.state.values():
        for key in MOMENTA:
            if state.get(key) is not None:
                state[key].zero_()


class Coordinates:
    """Many 1-D quadratics h x^2/2 at once, each with a curvature of its own.

    Args:
        make: makes the optimizer from its parameters.
        curvature: one h for each coordinate.
        start: |x| at the start.
        separate: one parameter a coordinate, for optimizers that take norms over a parameter.
        frozen_at: hold the step count there, with one random P for all coordinates.
    """

    def __init__(
        self, make: Make, curvature: Tensor, start: float, separate: bool, frozen_at: int | None
    ) -> None:
        self.curvature = curvature
        self.size = 1 if separate else len(curvature)
        begin = torch.full_like(curvature, start).split(self.size)
        self.params = [x.clone() for x in begin]
        self.optimizer = make(self.params)
        self.runner: Optimizer | Frozen = self.optimizer
        self.sign = -1.0 if self.optimizer.param_groups[0]["maximize"] else 1.0
        if frozen_at is not None:
            self.step()
            self.runner = random_state(self.optimizer, frozen_at, torch.Generator().manual_seed(0))
            (first, *_) = self.runner.state.values()
            for entries in self.runner.state.values():
                for key, value in entries.items():
                    value.fill_(first[key].flatten()[0].item())
            reset(self.optimizer, zip(self.params, begin, strict=True))

    def step(self) -> Tensor:
        """One step; returns |x| from before it."""
        x = torch.cat(self.params)
        gradient = self.sign * self.curvature * x
        for param, part in zip(self.params, gradient.split(self.size), strict=True):
            param.grad = part
        self.runner.step()
        return x.abs()

    def law(self) -> StabilityLaw:
        for param in self.params:
            param.requires_grad_()
        law = stability_law(self.optimizer, self.params)
        for param in self.params:
            param.requires_grad_(False)
        return law

    def predicted(self, law: StabilityLaw, coordinate: int) -> float:
        """The curvature at which the law has that coordinate's edge."""
        assert law.edge is not None, law.reason
        index, inside = divmod(coordinate, self.size)
        entry = law.preconditioner[index]
        p = 1.0 if entry is None else entry.flatten()[inside].item()
        return law.edge * p - law.shift[index]


def measured_edge(
    make: Make,
    *,
    separate: bool = False,
    frozen_at: int | None = None,
    middle: float = 1.0,
    start: float = 1e-150,
    steps: int = 400,
    rounds: int = 4,
) -> tuple[float, float]:
    """The curvature at which |x| starts to grow, found by sections, and the law's prediction.

    A section has 48 curvatures; four rounds narrow a range of 10^4 down to 2e-6. Growth is from
    half-time to the end, and the law is read in the middle of that.

    Args:
        make, separate, frozen_at, start: see `Coordinates`.
        middle: a curvature in the middle of the range; the range is 100 times to each side.
        steps: steps of one run.
        rounds: how often to narrow down.

    Returns:
        (measured, predicted by the law) curvature.
    """
    low, high = math.log10(middle / 100), math.log10(middle * 100)
    for last in [False] * (rounds - 1) + [True]:
        curvature = torch.logspace(low, high, 48, dtype=torch.float64)
        run = Coordinates(make, curvature, start, separate, frozen_at)
        sizes = [run.step() for _ in range(3 * steps // 4)]
        law = run.law() if last else None
        sizes += [run.step() for _ in range(steps // 4)]
        half = torch.stack(sizes[steps // 2 : steps // 2 + 4]).amax(0)
        end = torch.stack(sizes[-4:]).amax(0)
        # NaN grew; and so did what grew until its own squares held it back
        grew = ~(end <= half) | (torch.stack(sizes).amax(0) > 1e40 * start)
        assert not grew[0], "grows at the lowest curvature already"
        assert grew[-1], "does not grow at the highest curvature"
        first = int(grew.int().argmax())
        assert bool(grew[first:].all()), "growth is not monotone in the curvature"
        low, high = curvature[first - 1].log10().item(), curvature[first].log10().item()
    assert law is not None
    return 10 ** ((low + high) / 2), run.predicted(law, first)


def random_hessian(n: int, generator: torch.Generator) -> Tensor:
    """A dense positive definite matrix with eigenvalues from about 0.2 to 4."""
    a = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return a @ a.T / n + 0.2 * torch.eye(n, dtype=torch.float64)


def scale_to_edge(law: StabilityLaw, params: Sequence[Tensor], hessian: Tensor) -> float:
    """The s at which lambda_max(P^-1 (s H + C)) is the law's edge.

    The edge P - C - s H becomes singular there; P = inf takes a weight out.
    """
    assert law.edge is not None, law.reason
    diagonal = torch.cat(
        [
            torch.full_like(param, law.edge).flatten() - shift
            if entry is None
            else (law.edge * entry - shift).flatten()
            for param, entry, shift in zip(params, law.preconditioner, law.shift, strict=True)
        ]
    )
    assert bool((diagonal > 0).all())
    half = diagonal.rsqrt()
    return 1.0 / torch.linalg.eigvalsh(half[:, None] * hessian * half).max().item()


def growth(
    runner: Optimizer | Frozen,
    params: Sequence[Tensor],
    hessian: Tensor,
    *,
    minimum: Tensor | float = 0.0,
    steps: int = 240,
) -> float:
    """|w - minimum| at the end over that at half-time, on the quadratic of a Hessian."""
    sizes = []
    for _ in range(steps):
        offset = torch.cat([param.flatten() for param in params]) - minimum
        sizes.append(_norm(offset))
        parts = (hessian @ offset).split([param.numel() for param in params])
        for param, part in zip(params, parts, strict=True):
            param.grad = part.view_as(param)
        runner.step()
    return max(sizes[-4:]) / max(sizes[steps // 2 : steps // 2 + 4])


def _norm(tensor: Tensor) -> float:
    """A norm whose squares do not underflow."""
    largest = tensor.abs().max()
    return ((tensor / largest).norm() * largest).item() if largest > 0 else 0.0


def gradients(steps: int, shapes: Sequence[tuple[int, ...]], seed: int = 0) -> list[list[Tensor]]:
    """Random gradients, the same for all who ask."""
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(steps)]


def groups_of(params: Sequence[Tensor], settings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One group a parameter."""
    return [{"params": [p], **each} for p, each in zip(params, settings, strict=True)]
