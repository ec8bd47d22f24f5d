"""The seeded grid of runs; a seed has one run, and the seed decides its half.

Seeds 2k and 2k + 1 share task, optimizer and kind, and draw the rest each for themselves, so that both
halves have the same mixture: even seeds are for tuning, odd ones are held out for the table.
"""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.alerts.ladder import OPTIMIZERS
from benchmarks.alerts.tasks import TASKS, WAYS

Half = Literal["tuning", "held out"]

# what happens to a run: what it does to the loss is seen in the loss alone, see label.py
KINDS = {
    "safe": "a learning rate of 3 to 30 % of the largest that trains",
    "edge": "50 to 100 % of it",
    "high": "3 to 30 times it from the first step",
    "ramp": "the same, at the end of a warmup",
    "jump": "the learning rate is multiplied by 4 to 100, for 5 steps or for good",
    "bad batch": "one batch has inputs times 50 or wrong labels",
    "slow v": "b2 (alpha) = .9999 or eps = 1e-16, near the largest learning rate; SGD: momentum .99",
}

# from `python -m benchmarks.alerts.ladder`: a rung of 2 below the first at which the loss triples
LARGEST = {
    "mlp": dict(zip(OPTIMIZERS, (1.0, 2**-1, 2**-4, 2**-4, 2**-7), strict=True)),
    "relu": dict(zip(OPTIMIZERS, (1.0, 2**-2, 2**-5, 2**-5, 2**-8), strict=True)),
    "cnn": dict(zip(OPTIMIZERS, (1.0, 2**-3, 2**-4, 2**-4, 2**-7), strict=True)),
    "gpt": dict(zip(OPTIMIZERS, (1.0, 2**-1, 2**-3, 2**-3, 2**-5), strict=True)),
}


@dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
        seed: of weights, batches and all that is drawn here.
        task: key of `TASKS`.
        optimizer: one of `OPTIMIZERS`.
        kind: key of `KINDS`.
        steps: length of the run.
        rate: learning rate after the warmup.
        warmup: steps over which the rate rises linearly to it.
        clip: largest norm of the gradient; 0: as it is.
        fault_at: first step that is not as the others; -1: none.
        factor: the learning rate is multiplied by it from `fault_at` on.
        fault_steps: for so many steps.
        way: how the batch at `fault_at` is spoilt; "": it is not.
        b2: of Adam, alpha of RMSprop, momentum of SGD; 0: the usual one.
        eps: of the adaptive ones.
    """

    seed: int
    task: str
    optimizer: str
    kind: str
    steps: int
    rate: float
    warmup: int = 0
    clip: float = 0.0
    fault_at: int = -1
    factor: float = 1.0
    fault_steps: int = 0
    way: str = ""
    b2: float = 0.0
    eps: float = 1e-8

    @property
    def half(self) -> Half:
        """What the run may be used for."""
        return "held out" if self.seed % 2 else "tuning"

    def rate_at(self, step: int) -> float:
        """The learning rate of optimizer step `step`."""
        rate = self.rate * min(1.0, (step + 1) / self.warmup if self.warmup else 1.0)
        if 0 <= self.fault_at <= step < self.fault_at + self.fault_steps:
            rate *= self.factor
        return rate

    def to_dict(self) -> dict[str, Any]:
        """Plain Python."""
        return asdict(self)


_CELLS = [(task, o, kind) for kind in KINDS for task in TASKS for o in OPTIMIZERS]
# shuffled once, so that the first runs already are a mixture
random.Random(7).shuffle(_CELLS)
COUNT = 200
# short ones of either half: healthy, lost at once, lost late, spiked
SMALL = (1, 5, 7, 9, 16, 17, 20, 21, 22, 23, 51, 67)


def grid(count: int = COUNT) -> list[Config]:
    """The runs of seeds 0 to `count` - 1."""
    return [drawn(seed) for seed in range(count)]


def small_grid() -> list[Config]:
    """The 12 runs of `SMALL`."""
    return [drawn(seed) for seed in SMALL]


def drawn(seed: int) -> Config:
    """The run of `seed`."""
    task, optimizer, kind = _CELLS[seed // 2 % len(_CELLS)]
    draw = random.Random(1000 + seed)
    largest = LARGEST[task][optimizer]
    steps = draw.choice((200, 250, 300))
    setup: dict[str, Any] = {"rate": largest * _between(draw, 0.1, 0.6), "steps": steps}
    if draw.random() < 0.3:
        setup["warmup"] = draw.choice((20, 50))
    if draw.random() < 0.25:
        setup["clip"] = draw.choice((0.5, 1.0))
    if kind == "safe":
        setup["rate"] = largest * _between(draw, 0.03, 0.3)
    elif kind == "edge":
        setup.update(rate=largest * _between(draw, 0.5, 1.0), steps=draw.choice((300, 400)))
    elif kind == "high":
        setup.update(rate=largest * _between(draw, 3, 30), steps=100, warmup=0)
    elif kind == "ramp":
        setup.update(rate=largest * _between(draw, 3, 30), warmup=draw.randint(100, steps))
    elif kind == "jump":
        at, short = draw.randint(80, steps - 60), draw.random() < 0.4
        setup.update(fault_at=at, factor=_between(draw, 4, 100), fault_steps=5 if short else steps)
    elif kind == "bad batch":
        setup.update(fault_at=draw.randint(80, steps - 60), way=draw.choice(WAYS))
    else:
        setup["rate"] = largest * _between(draw, 0.3, 2.0)
        if optimizer in ("sgd", "momentum"):
            setup["b2"] = 0.99
            setup["rate"] /= 2 if optimizer == "sgd" else 1
        elif draw.random() < 0.7:
            setup["b2"] = 0.9999
        else:
            setup["eps"] = 1e-16
    return Config(seed=seed, task=task, optimizer=optimizer, kind=kind, **setup)


def _between(draw: random.Random, low: float, high: float) -> float:
    """Uniform in the logarithm, to three digits."""
    return float(f"{math.exp(draw.uniform(math.log(low), math.log(high))):.3g}")
