"""The cadences that there are: 1, 2, 5, 10, 20, 50, ... steps."""

from __future__ import annotations

from collections.abc import Mapping


def on_grid(at_least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is `at_least` or more."""
    decade = 1
    while True:
        for factor in (1, 2, 5):
            if factor * decade >= at_least:
                return factor * decade
        decade *= 10


def grid_below(at_most: float) -> int:
    """The largest of 1, 2, 5, 10, 20, 50, ... that is `at_most` or less; 1 where none is."""
    n = on_grid(at_most)
    return n if n <= at_most else finer(n)


def is_on_grid(step: int) -> bool:
    """Whether `step` is itself one of 1, 2, 5, 10, 20, 50, ..."""
    return step > 0 and on_grid(step) == step


def finer(n: int) -> int:
    """The largest of the grid that is less than its `n`; 1 for 1."""
    return on_grid(n / 2.5)


def per_step(costs: Mapping[str, float], cadences: Mapping[str, int]) -> float:
    """What readings take of each step.

    Args:
        costs: seconds of one reading of each kind.
        cadences: n for each, for a reading every n steps.
    """
    return sum(cost / cadences[kind] for kind, cost in costs.items())


def divide(costs: Mapping[str, float], seconds: float) -> dict[str, int]:
    """The finest cadences on the grid that take at most `seconds` of each step, all together.

    Each kind may have an equal part, and what others leave of theirs.

    Args:
        costs: seconds of one reading of each kind.
        seconds: more than 0.
    """
    cadences = {kind: on_grid(cost * len(costs) / seconds) for kind, cost in costs.items()}
    for kind, cost in costs.items():
        left = seconds - per_step(costs, cadences) + cost / cadences[kind]
        cadences[kind] = min(cadences[kind], on_grid(cost / left))
    return cadences


def fits(
    costs: Mapping[str, float], cadences: Mapping[str, int], seconds: float, *, tolerance: float
) -> bool:
    """Whether `cadences` take at most `seconds` and the tolerated part more, and none can be finer."""
    used = per_step(costs, cadences)
    closer = (used + c / finer(cadences[k]) - c / cadences[k] for k, c in costs.items())
    stuck = all(u > seconds or cadences[k] == 1 for u, k in zip(closer, costs, strict=True))
    return used <= seconds * (1 + tolerance) and stuck
