"""Which optimizers are compared, by name."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from curvwatch.checks import check_fraction


class _Rule(Optimizer):
    """Takes a step by all gradients together."""

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        super().__init__(params, {"lr": 1.0})

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one."""
        with torch.no_grad():
            weights = [p for g in self.param_groups for p in g["params"] if p.grad is not None]
            if weights:
                self._move(weights, [cast(Tensor, p.grad) for p in weights])

    def _buffers(self, name: str, weights: list[Tensor]) -> list[Tensor]:
        for w in weights:
            if name not in self.state[w]:
                self.state[w][name] = torch.zeros_like(w)
        return [self.state[w][name] for w in weights]

    @abstractmethod
    def _move(self, weights: list[Tensor], gradients: list[Tensor]) -> None: ...


class Sign(_Rule):
    """w <- w - sign(g) (Bernstein et al. 2018)."""

    def _move(self, weights: list[Tensor], gradients: list[Tensor]) -> None:
        torch._foreach_sub_(weights, torch._foreach_sign(gradients))


class Lion(_Rule):
    """w <- w - sign(.9 m + .1 g), then m <- .99 m + .01 g (Chen et al. 2023, algorithm 2)."""

    def _move(self, weights: list[Tensor], gradients: list[Tensor]) -> None:
        averages = self._buffers("exp_avg", weights)
        torch._foreach_sub_(weights, torch._foreach_sign(torch._foreach_lerp(averages, gradients, 0.1)))
        torch._foreach_lerp_(averages, gradients, 0.01)


class NormalizedSGD(_Rule):
    """w <- w - m with m <- .9 m + g / abs(g), abs(g) of each weight tensor (Yu et al. 2017).

    One norm for all weights would leave the direction as it is but for the momentum: measured, the
    directional sharpness is then that of SGD with momentum.
    """

    def _move(self, weights: list[Tensor], gradients: list[Tensor]) -> None:
        buffers = self._buffers("momentum_buffer", weights)
        torch._foreach_mul_(buffers, 0.9)
        units = [g / torch.where(n > 0, n, 1.0) for g, n in _with_norms(gradients)]
        torch._foreach_add_(buffers, units)
        torch._foreach_sub_(weights, buffers)


def clipped(gradients: Mapping[int, Tensor], fraction: float) -> dict[int, Tensor]:
    """`gradients` with their largest entries cut down to one threshold.

    Args:
        gradients: by any keys.
        fraction: of the entries that are not zero, how many are larger than the threshold.
    """
    if not gradients:
        return {}
    first = next(iter(gradients.values()))
    sizes = torch.cat([g.reshape(-1).to(first).abs() for g in gradients.values()])
    sizes = sizes[sizes > 0]
    kept = len(sizes) - round(fraction * len(sizes))
    if not 0 < kept < len(sizes):
        return dict(gradients)
    # on an accelerator kthvalue is refused where algorithms have to be deterministic
    on_host = sizes.device.type == "cpu"
    threshold: Tensor = sizes.kthvalue(kept).values if on_host else sizes.sort().values[kept - 1]
    return {key: _cut(g, threshold.to(g)) for key, g in gradients.items()}


def _with_norms(gradients: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(gradients, torch._foreach_norm(gradients), strict=True)


def _cut(g: Tensor, threshold: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(g, -threshold), threshold)


Factory = Callable[[list[nn.Parameter]], Optimizer]

# of one compared optimizer, in `step/<name>/...`
METRICS = ("directional_sharpness", "gradient_correlation", "gradient_cosine")

_BUILT_IN: dict[str, Factory] = {
    "sgd": lambda params: SGD(params, lr=1.0),
    "momentum": lambda params: SGD(params, lr=1.0, momentum=0.9),
    "normalized_sgd": NormalizedSGD,
    "sign": Sign,
    "adam": lambda params: Adam(params, lr=1.0),
    "lion": Lion,
}


@dataclass(frozen=True)
class Compared:
    """An optimizer whose shadow steps are compared with those of the run.

    Args:
        name: in `step/<name>/directional_sharpness`.
        optimizer: one that is built in, or a function that makes one from a list of parameters;
            None: the one that is built in as `name`.
        clip: the share of the gradient's coordinates that is clipped before the optimizer gets them,
            the largest of all weights together; those that are zero do not count.

    Raises:
        ValueError: an argument is out of range; the message says what would work.

    Source: Pan & Li 2023, coordinate-wise clipping.

    Example:
        >>> Compared("adam_clipped_by_30", "adam", clip=0.3).clip
        0.3
    """

    name: str
    optimizer: str | Factory | None = None
    clip: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[\w.-]+", self.name):
            raise ValueError(
                f"the name {self.name!r} of a compared optimizer: letters, digits and _ . - are needed"
            )
        optimizer = self.name if self.optimizer is None else self.optimizer
        if isinstance(optimizer, str) and optimizer not in _BUILT_IN:
            raise ValueError(f"unknown optimizer {optimizer!r}; there are {_THERE_ARE}")
        if not isinstance(optimizer, str) and not callable(optimizer):
            raise ValueError(
                f"the optimizer {self.name!r} is {optimizer!r}: a name or a function of a list of "
                "parameters is needed, such as lambda params: torch.optim.RMSprop(params)"
            )
        if self.clip is not None:
            check_fraction("clip", self.clip, what="a share of coordinates between 0 and 1")

    @property
    def is_built_in(self) -> bool:
        """Whether its steps do not depend on the weights but for their gradient."""
        return self.optimizer is None or isinstance(self.optimizer, str)

    @property
    def make(self) -> Factory:
        """Makes the optimizer."""
        optimizer = self.name if self.optimizer is None else self.optimizer
        return _BUILT_IN[optimizer] if isinstance(optimizer, str) else optimizer

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of its values."""
        return tuple(f"step/{self.name}/{metric}" for metric in METRICS)


_CLIPPED = {"clipped_sgd": ("momentum", 0.1), "clipped_adam": ("adam", 0.5)}
_THERE_ARE = ", ".join((*_BUILT_IN, *_CLIPPED))
COMPARED: dict[str, Compared] = {
    **{name: Compared(name) for name in _BUILT_IN},
    **{name: Compared(name, inner, clip) for name, (inner, clip) in _CLIPPED.items()},
}

# a type that LightningCLI can read
Compares: TypeAlias = str | Compared | dict[str, Any]


def make_compared(compare: Any) -> tuple[Compared, ...]:
    """What `StepGeometry(compare=...)` names.

    Raises:
        ValueError: one is unknown, or a name comes twice.
    """
    if isinstance(compare, (str, Compared, Mapping)):
        compare = [compare]
    if not isinstance(compare, Iterable):
        raise ValueError(f"compare={compare!r}: {_NEEDED}")
    made: list[Compared] = []
    for item in compare:
        if isinstance(item, str):
            if item not in COMPARED:
                raise ValueError(f"unknown optimizer {item!r}; there are {_THERE_ARE}")
            made.append(COMPARED[item])
        elif isinstance(item, Compared):
            made.append(item)
        elif isinstance(item, Mapping):
            made += [Compared(name, factory) for name, factory in item.items()]
        else:
            raise ValueError(f"compare: {item!r} is no optimizer: {_NEEDED}")
    names = [c.name for c in made]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the compared optimizer {name!r} comes twice: give it another name")
    return tuple(made)


_NEEDED = (
    f"names ({_THERE_ARE}), Compared(...) or {{name: function of a list of parameters}} are needed"
)
