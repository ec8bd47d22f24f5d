"""How often to read, so that readings keep to a share of the time of a run."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp
from statistics import median, median_low
from typing import Any


def on_grid(at_least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is `at_least` or more."""
    decade = 1
    while True:
        for factor in (1, 2, 5):
            if factor * decade >= at_least:
                return factor * decade
        decade *= 10


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


def spread(costs: Mapping[str, float], seconds: float) -> dict[str, int]:
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


def kept(
    costs: Mapping[str, float], cadences: Mapping[str, int], seconds: float, *, tolerance: float
) -> bool:
    """Whether `cadences` take at most `seconds` and the tolerated part more, and none can be finer."""
    used = per_step(costs, cadences)
    closer = (used + c / finer(cadences[k]) - c / cadences[k] for k, c in costs.items())
    stuck = all(u > seconds or cadences[k] == 1 for u, k in zip(closer, costs, strict=True))
    return used <= seconds * (1 + tolerance) and stuck


# the share holds from the later of the two on; what it will allow until then may be spent before
WARM_UP_STEPS, WARM_UP_SECONDS = 1000, 30.0
# the first steps change the landscape most, and short runs should show a curve
EARLY_STEPS = (0, 10, 20, 50, 100)
_EARLY = frozenset(EARLY_STEPS)
# before anything is known of the cost of a reading
_UNKNOWN = 100
# a look every so many steps, or a tenth of the finest cadence, but not more seldom than that
_LOOK, _RAREST_LOOK = 10, 1000
# what is not spent is kept for later up to so many readings, so that no stretch overspends by more
_SAVED_READINGS = 5.0
# a cadence over the budget by less is kept: what was saved pays, and then a reading is left out
_TOLERANCE = 0.05
# pauses (validation, checkpoints) are remembered for the time that pays so many readings
_PAUSE_READINGS = 100.0


@dataclass
class Interval:
    """What passed since the last look, the same on every process.

    Attributes:
        steps: made.
        seconds: of the run, with pauses and readings.
        reading: seconds of everything that the monitor did, for what keeps to the budget.
        step: seconds of a typical step without readings; None where none was made in one piece.
        timed: seconds of the readings themselves, by kind.
        counts: how many there were, by kind.
    """

    steps: int
    seconds: float
    reading: float
    step: float | None
    timed: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


class Budget:
    """Chooses a cadence for each kind of reading; an account sees to it that the share is kept.

    Time pays `share` of each second into the account, and everything that the monitor does is taken
    from it. A reading is made only if there is enough for it, so the share of a whole run is kept
    whatever was estimated; the cadences are chosen such that there mostly is. All is decided at looks,
    a few for each reading, from numbers that are the same on every process.

    Args:
        share: of the time of a run, between 0 and 1.
        kinds: of readings, in the order in which they have precedence.
    """

    def __init__(self, share: float, kinds: Sequence[str]) -> None:
        self._share = share
        self._kinds = tuple(kinds)
        self._elapsed = 0.0
        self._account = 0.0
        self._steps: deque[float] = deque(maxlen=3)
        self._with_pauses, self._without = 0.0, 0.0
        self._idle: deque[float] = deque(maxlen=5)
        self._costs: dict[str, deque[float]] = {kind: deque(maxlen=5) for kind in kinds}
        self._last: dict[str, int] = {}
        self._allowed: frozenset[str] = frozenset()
        self.every_n_steps = dict.fromkeys(kinds, _UNKNOWN)
        self._spacing = _LOOK  # of looks

    def updates_at(self, step: int) -> bool:
        """Whether `update` is to be called at optimizer step `step`."""
        return step % self._spacing == 0 or step in _EARLY

    def due(self, kind: str, step: int) -> bool:
        """Whether a reading of `kind` is due at `step`, after the look at it if there is one."""
        if kind not in self._allowed:
            return False
        return step in _EARLY or step % self.every_n_steps[kind] == 0

    def can_afford(self, kind: str, made: Mapping[str, int]) -> bool:
        """Whether there is enough for a further reading of `kind`.

        Args:
            kind: of reading.
            made: how many readings of each kind were made since the last look.
        """
        costs = {k: max(seconds) for k, seconds in self._costs.items() if seconds}
        spent = sum(cost * made.get(k, 0) for k, cost in costs.items())
        there_is = self._account + self._share * self._warm_up_left - spent
        return kind in costs and there_is >= costs[kind]

    def update(self, step: int, passed: Interval) -> None:
        """Learn from what passed since the last look, and decide until the next.

        Args:
            step: the coming optimizer step, counted from 0.
            passed: since the last look.
        """
        self._pay(passed)
        self._learn(passed)
        self._choose()
        self._allow(step)

    # what is known

    @property
    def _step_seconds(self) -> float:
        return median(self._steps) if self._steps else 0.0

    @property
    def _warm_up_left(self) -> float:
        seconds = max(WARM_UP_SECONDS, WARM_UP_STEPS * self._step_seconds)
        return max(0.0, seconds - self._elapsed)

    @property
    def _known(self) -> dict[str, float]:
        """Seconds of a typical reading of each kind; the first is dearer than the next."""
        return {kind: median_low(costs) for kind, costs in self._costs.items() if costs}

    def _price(self, kind: str) -> float:
        """Of what can be due between two looks: readings may be as dear as the last ones."""
        return max(self._costs[kind], default=0.0) * max(1.0, _LOOK / self.every_n_steps[kind])

    @property
    def _prices(self) -> float:
        return sum(map(self._price, self._kinds))

    # the parts of a look

    def _pay(self, passed: Interval) -> None:
        self._elapsed += passed.seconds
        self._account += self._share * passed.seconds - passed.reading
        if all(self._costs.values()):
            self._account = min(self._account, _SAVED_READINGS * self._prices)

    def _learn(self, passed: Interval) -> None:
        readings = sum(passed.counts.values())
        if not readings and passed.steps:
            self._idle.append(passed.reading / passed.steps)
        # what is kept for readings is not in their own times
        idle = passed.steps * (median(self._idle) if self._idle else 0.0)
        rest = max(0.0, passed.reading - idle - sum(passed.timed.values()))
        for kind, count in passed.counts.items():
            self._costs[kind].append(passed.timed.get(kind, 0.0) / count + rest / readings)
        if passed.step is None:
            return
        known = bool(self._steps)  # the first look sees what happens once: compilation, workers
        self._steps.append(passed.step)
        if known and self._prices:
            typical = passed.steps * self._step_seconds
            # of a long pause counts what the account can hold
            pause = passed.seconds - passed.reading - typical
            pause = min(pause, _SAVED_READINGS * self._prices / self._share)
            memory = _PAUSE_READINGS * self._prices / self._share
            fading = exp(-(typical + max(0.0, pause)) / memory)
            self._with_pauses = fading * self._with_pauses + typical + pause
            self._without = fading * self._without + typical

    def _choose(self) -> None:
        costs = self._known
        if not costs or not self._steps:
            return
        share = self._share
        if self._warm_up_left:  # pay back what was spent at its beginning until it ends
            owed = min(0.0, self._account) / self._warm_up_left
            share = max(self._share + owed, self._share / 4)
        pauses = self._with_pauses / self._without if self._without else 1.0
        seconds = self._step_seconds * pauses * share / (1 - share)
        idle = median(self._idle) if self._idle else 0.0
        # what is not known yet may take its part
        seconds = max(seconds - idle, seconds / 10) * len(costs) / len(self._kinds)
        if not kept(costs, self.every_n_steps, seconds, tolerance=_TOLERANCE):
            self._change(spread(costs, seconds))

    def _change(self, cadences: Mapping[str, int]) -> None:
        self.every_n_steps.update(cadences)
        # so that all cadences are multiples of it, but for those that are finer
        finest = min(self.every_n_steps.values())
        self._spacing = min(max(_LOOK, finest // 10), _RAREST_LOOK)

    def _allow(self, step: int) -> None:
        costs = self._known
        there_is = self._account + self._share * self._warm_up_left
        early = [s for s in EARLY_STEPS if s >= step]
        allowed = set()
        for kind in self._kinds:
            n = self.every_n_steps[kind]
            price = self._price(kind)
            if len(self._costs[kind]) == 1 and step in _EARLY:
                price /= 2  # a first reading is dearer than the next
            promised = sum(
                cost * min(1.0, (step - self._last.get(other, step)) / self.every_n_steps[other])
                for other, cost in costs.items()
                if other != kind and other not in allowed
            )
            # where not all early steps can be had, the later ones
            wanted = len(early) if step in early and step % n else 1
            if kind not in costs or there_is >= promised + price * wanted:
                allowed.add(kind)
                if n < _LOOK or step in _EARLY or step % n == 0:
                    self._last[kind] = step
                    there_is -= price
        self._allowed = frozenset(allowed)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "elapsed": self._elapsed,
            "account": self._account,
            "steps": list(self._steps),
            "pauses": [self._with_pauses, self._without],
            "idle": list(self._idle),
            "costs": {kind: list(costs) for kind, costs in self._costs.items()},
            "last": dict(self._last),
            "allowed": sorted(self._allowed),
            "every_n_steps": dict(self.every_n_steps),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`; what it holds of other kinds is dropped."""
        self._elapsed, self._account = state["elapsed"], state["account"]
        self._with_pauses, self._without = state["pauses"]
        self._allowed = frozenset(state["allowed"])
        self._last = dict(state["last"])
        self._steps.extend(state["steps"])
        self._idle.extend(state["idle"])
        for kind in self._kinds:
            if kind in state["costs"]:
                self._costs[kind].extend(state["costs"][kind])
                self._change({kind: state["every_n_steps"][kind]})
