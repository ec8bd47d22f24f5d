"""How often to read, so that readings keep to a share of the time of a run and no run goes without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log, log2
from typing import Any

from curvwatch.training.schedule.costs import Costs, Interval, of_kind
from curvwatch.training.schedule.grid import (
    divide,
    finer,
    fits,
    grid_below,
    is_on_grid,
    on_grid,
    per_step,
)

# a run with less training time may take, whatever its share, what the fewest readings need
SHORT_RUN_SECONDS = 60.0
# but not more than so many seconds
FLOOR_SECONDS = 30.0
# readings of a run of up to 1000 steps, and of one from 5000 steps on
FEWEST = {"step": (25, 75), "landscape": (12, 25), "expensive": (4, 8)}
_FEW_STEPS, _MANY_STEPS = 1000, 5000
# a run of fewer steps has fewer, but not fewer than that
_FULL_STEPS, _AT_LEAST = 200, 3
# and where that is too expensive, these parts of them
_LEVELS = (1.0, 0.8, 0.6, 0.4)
# of a longer run its readings may be ahead of their share by a quarter of the whole, and by so much
CREDIT_SECONDS = 10.0
# where nobody knows how long the run is, so much is free, and is paid back first
UNKNOWN_CREDIT_SECONDS = 3.0
# of that, this part may go into the fewest readings of a run of so many steps
_SOON, _SHORTEST = 2 / 3, 400
# before this step no more than the time of so many steps, or so many seconds, goes into readings
START_STEPS, START_COST, START_SECONDS = 20, 10.0, 0.25
# in a run that ends before that step so many seconds, and a reading of each kind if a step is quick
_TINY_SECONDS, _QUICK_STEP = 2.0, 0.1
# in a short run alerts and sentinels may ask for so many readings beside
PULLED_READINGS = 20
# of what may be spent, kept for what alerts and sentinels ask for: at first, and less to the end
_RESERVE = 0.1
# no gap between readings of the first kind is longer than this part of the run, if that leaves so much
_FEWEST_SPREAD, _LEFT_TO_OTHERS = 15, 0.3
# a kind whose reading takes more of what the run may spend is left to a longer run
_TOO_LARGE = 0.6
# an update every so many steps, or a tenth of the finest cadence, but not more seldom than that
_UPDATE, _RAREST_UPDATE = 10, 1000
# a cadence over the budget by less is kept
_TOLERANCE = 0.05
# under so many readings of a kind a run is told that its budget is short
_TOO_FEW = 10


class Budget:
    """Chooses a cadence for each kind of reading, and what may be spent until the next choice.

    A run whose length is known has a purse: `share` of its time, or in a run of under a minute what
    the fewest readings need. What is left of it is divided over the steps that are left, so that
    readings are spread over the whole run and none of what was spent at the start is missing for long.
    Where the length is unknown, readings come in ever wider distances, within `share` of the time so
    far. Everything is decided at updates, from numbers that are the same on every process.

    Args:
        share: of the time of a run, between 0 and 1.
        kinds: of readings, in the order in which they have precedence: "step", "landscape", or one of
            these with ", expensive".
        part: of the seconds that are free of the share, where several budgets divide them.

    Attributes:
        every_n_steps: the present cadence of each kind.
    """

    def __init__(self, share: float, kinds: Sequence[str], *, part: float = 1.0) -> None:
        self._share, self._part = share, part
        self._ratio = share / (1 - share)  # of the training time
        self._kinds = tuple(kinds)
        self._total_steps: int | None = None
        self._step = 0
        self._costs = Costs(kinds)
        self.every_n_steps = dict.fromkeys(kinds, _UPDATE)
        self._spacing = _UPDATE  # of updates
        self._limit, self._early_limit, self._pulled_limit = 0.0, 0.0, 0.0
        self._pulled = 0.0  # seconds of readings beside the cadence
        self._owed: set[str] = set()  # kinds that could not be paid when they were due

    def updates_at(self, step: int) -> bool:
        """Whether `update` is to be called at optimizer step `step`."""
        return step % self._spacing == 0 or is_on_grid(step)

    def due(self, kind: str, step: int, pending: float) -> bool:
        """Whether a reading of `kind` is due at `step`, after the update if there is one.

        Args:
            kind: of reading.
            step: the coming optimizer step.
            pending: seconds that readings took since the last update.
        """
        if step == 0:  # what a step takes is not known yet, and adaptive optimizers have no edge there
            return self._total_steps == 1
        if self._is_all_start and not self._costs.was_read(kind) and is_on_grid(step):
            return self._costs.step_seconds <= _QUICK_STEP  # who tries it out is to see something
        n = self.every_n_steps[kind]
        limit = self._limit
        owed = kind in self._owed and step % self._spacing == 0
        if step % n and not owed:
            if step > n or not is_on_grid(step):
                return False
            limit = self._early_limit
            if kind != self._kinds[-1] and self._costs.was_read(kind):
                limit /= 2  # of early readings each kind has some
        pays = self._spent + pending + self.cost(kind) <= limit
        if pays:
            self._owed.discard(kind)
        elif step % n == 0:
            self._owed.add(kind)
        return pays

    def grant(self, kind: str, pending: float) -> bool:
        """Whether a reading of `kind` beside the cadence can be paid: it is made then."""
        cost = self.cost(kind)
        if not self._costs.knows_steps or self._costs.spent + pending + cost > self._pulled_limit:
            return False
        if self._is_short and self._pulled + cost > PULLED_READINGS * self.cost(self._kinds[0]):
            return False
        self._pulled += cost
        return True

    def next_event(self, step: int) -> int:
        """The first step after `step` at which something may be due, or an update is."""
        nexts = [step - step % n + n for n in (*self.every_n_steps.values(), self._spacing)]
        early = step + 1
        while not is_on_grid(early) and early < min(nexts):
            early += 1
        return min(*nexts, early)

    def update(self, step: int, passed: Interval, *, total_steps: int | None = None) -> None:
        """Learn from what passed since the last update, and decide until the next.

        Args:
            step: the coming optimizer step, counted from 0.
            passed: since the last update.
            total_steps: how many the whole run will make; None: nobody knows.
        """
        self._step, self._total_steps = step, total_steps
        self._costs.learn(step, passed, ratio=self._ratio)
        if not self._costs.knows_steps:
            return
        self._choose()
        self._set_limits()

    @property
    def shortfall(self) -> str | None:
        """What this budget cannot pay in this run, in words; None: it pays enough."""
        total = self._total_steps
        if total is None or self._step < START_STEPS or not self._costs.was_read(self._kinds[0]):
            return None
        for kind in self._kinds:
            n, cost = self.every_n_steps[kind], self.cost(kind)
            expected = total // n
            if expected < min(_TOO_FEW, total / 10):
                about = "" if self._costs.was_read(kind) else "about "
                number = f"{expected or 'no'} {'reading' if expected == 1 else 'readings'}"
                return (
                    f"the budget ({self._share:.3g}) pays for {number} of the "
                    f"{kind.partition(',')[0]} in this run of {total} steps: one takes "
                    f"{about}{cost:.2g} s, and a step {self._costs.step_seconds:.2g} s. A larger "
                    "budget, every_n_steps=... or fewer measures give more"
                )
        return None

    # what is known

    @property
    def _is_all_start(self) -> bool:
        return self._total_steps is not None and self._total_steps <= START_STEPS

    @property
    def _is_short(self) -> bool:
        whole = self._whole_run
        return whole is not None and whole < SHORT_RUN_SECONDS

    @property
    def _spent(self) -> float:
        """Seconds of readings, in a short run without those that were granted beside."""
        return self._costs.spent - (self._pulled if self._is_short else 0.0)

    @property
    def _steps_left(self) -> int | None:
        return None if self._total_steps is None else max(1, self._total_steps - self._step)

    @property
    def _whole_run(self) -> float | None:
        """Seconds of training, from first to last step."""
        left = self._steps_left
        return None if left is None else self._costs.trained + left * self._costs.mean_step

    def cost(self, kind: str) -> float:
        """Seconds of the next reading of `kind`."""
        return self._costs.of(kind)

    def _fewest(self, steps: int, part: float = 1.0) -> dict[str, int]:
        """The cadences that give a run of `steps` a part of the fewest readings."""
        between = log(max(steps, 1) / _FEW_STEPS) / log(_MANY_STEPS / _FEW_STEPS)
        between = min(1.0, max(0.0, between))
        scale = min(1.0, steps / _FULL_STEPS)
        return {
            kind: grid_below(steps / part / max(_AT_LEAST, scale * (few + (many - few) * between)))
            for kind, (few, many) in ((k, of_kind(k, FEWEST)) for k in self._kinds)
        }

    # the parts of an update

    def _choose(self) -> None:
        costs = self._costs.all()
        left, whole, total = self._steps_left, self._whole_run, self._total_steps
        if left is None or whole is None or total is None:
            free = UNKNOWN_CREDIT_SECONDS * self._part
            self._change(self._by_doublings(costs, free))
            return
        purse, base = self._purse(whole), self._ratio * self._costs.mean_step
        possible = self._possible(costs, purse)
        seconds = max((purse - self._reserve - self._spent) / left, base / 4)
        if not self._is_short:
            cadences = self._first_without_gap(possible, min(seconds, 2 * base), total)
            # a run may end long before its last step
            free = min(purse / 4, UNKNOWN_CREDIT_SECONDS * self._part)
            if self._ratio * self._costs.trained < free:
                cadences = _finer_of(self._by_doublings(costs, free), cadences)
        else:
            levels = (self._fewest(total, part) for part in _LEVELS)
            pays = (n for n in levels if per_step(costs, n) <= seconds * (1 + _TOLERANCE))
            cadences = self._divided(possible, seconds)
            if (fewest := next(pays, None)) is not None:
                cadences = fewest if self._is_floor(whole) else _finer_of(cadences, fewest)
        seldom = on_grid(2 * total)
        self._change({kind: cadences.get(kind, seldom) for kind in self._kinds})

    def _by_doublings(self, costs: Mapping[str, float], free: float) -> dict[str, int]:
        """The `free` seconds, in equal parts for each time that the run doubles its length."""
        base = self._ratio * self._costs.mean_step
        ahead = max(self._step, _SHORTEST)
        for part in _LEVELS:
            few = {k: grid_below(ahead / part / of_kind(k, FEWEST)[0]) for k in costs}
            if self._spent + ahead * per_step(costs, few) <= _SOON * free:
                return few
        repaid = free / self._ratio
        if self._costs.trained >= repaid:
            left = self._ratio * self._costs.trained - self._spent
            return self._divided(costs, min(max(base + left / ahead, base / 4), 2 * base))
        doublings = max(1.0, log2(repaid / (ahead * self._costs.mean_step)))
        possible = self._possible(costs, free - self._spent)
        cadences = self._divided(possible, max((free - self._spent) / doublings / ahead, base / 4))
        return {kind: cadences.get(kind, on_grid(2 * ahead)) for kind in costs}

    def _possible(self, costs: Mapping[str, float], purse: float) -> dict[str, float]:
        """The kinds of which the purse pays a reading, without most of it; the first kind always."""
        return {k: c for k, c in costs.items() if k == self._kinds[0] or c <= _TOO_LARGE * purse}

    def _first_without_gap(
        self, costs: Mapping[str, float], seconds: float, total: int
    ) -> dict[str, int]:
        """The first kind without a gap of a fifteenth of the run, if that leaves some to others."""
        first, widest = self._kinds[0], grid_below(total / _FEWEST_SPREAD)
        rest = seconds - costs[first] / widest
        cadences = self._divided(costs, seconds)
        if cadences[first] <= widest or rest < _LEFT_TO_OTHERS * seconds:
            return cadences
        return {**self._divided({k: c for k, c in costs.items() if k != first}, rest), first: widest}

    def _divided(self, costs: Mapping[str, float], seconds: float) -> dict[str, int]:
        if not costs:
            return {}
        seconds = max(seconds, 1e-12)
        if fits(costs, self.every_n_steps, seconds, tolerance=_TOLERANCE):
            return {kind: self.every_n_steps[kind] for kind in costs}
        return divide(costs, seconds)

    def _is_floor(self, whole: float) -> bool:
        return self._purse(whole) > self._ratio * whole

    def _purse(self, whole: float) -> float:
        """Seconds that readings may take in a run with `whole` seconds of training."""
        purse = self._ratio * whole
        total, left = self._total_steps, self._steps_left
        if total is None or left is None:
            return purse
        if self._is_short:
            needed = self._spent + left * per_step(self._costs.all(), self._fewest(total))
            return max(purse, min(needed, FLOOR_SECONDS * self._part))
        # one reading, at least, of the kind that comes first
        first = self.cost(self._kinds[0])
        if (
            not self._costs.was_read(self._kinds[0])
            and first <= min(FLOOR_SECONDS, whole / 4) * self._part
        ):
            return max(purse, self._spent + first)
        return purse

    @property
    def _reserve(self) -> float:
        """Seconds that are kept for what alerts and sentinels ask for."""
        left, whole = self._steps_left, self._whole_run
        if left is None or whole is None or self._total_steps is None:
            return 0.0
        if self._is_short:
            return 0.0
        return _RESERVE * self._purse(whole) * left / self._total_steps

    def _change(self, cadences: Mapping[str, int]) -> None:
        self.every_n_steps.update(cadences)
        # so that all cadences are multiples of it, but for those that are finer
        finest = min(self.every_n_steps.values())
        self._spacing = min(max(_UPDATE, finer(finer(finer(finest)))), _RAREST_UPDATE)

    def _set_limits(self) -> None:
        whole = self._whole_run
        if whole is None:
            most = max(self._ratio * self._costs.trained, UNKNOWN_CREDIT_SECONDS * self._part)
        else:
            most = purse = self._purse(whole)
            if not self._is_short:
                credit = min(purse / 4, CREDIT_SECONDS * self._part)
                if not self._costs.was_read(self._kinds[0]):
                    credit = purse
                most = min(purse, self._ratio * self._costs.trained + credit)
        pulled = most
        if self._is_short:
            pulled = most + self._pulled + PULLED_READINGS * self.cost(self._kinds[0])
        # the first reading comes before any reserve
        limit = most - self._reserve if self._costs.was_read(self._kinds[0]) else most
        early = max(START_SECONDS * self._part, most / 4) if whole is None else limit
        if self._step < START_STEPS:
            seconds = _TINY_SECONDS if self._is_all_start else START_SECONDS
            start = max(seconds, START_COST * self._costs.step_seconds) * self._part
            limit, early, pulled = min(limit, start), min(early, start), min(pulled, start)
        self._limit, self._early_limit, self._pulled_limit = limit, early, pulled

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "costs": self._costs.state_dict(),
            "limits": [self._limit, self._early_limit, self._pulled_limit],
            "pulled": self._pulled,
            "owed": sorted(self._owed),
            "total_steps": self._total_steps,
            "step": self._step,
            "every_n_steps": dict(self.every_n_steps),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`; what it holds of other kinds is dropped."""
        self._costs.load_state_dict(state["costs"])
        self._limit, self._early_limit, self._pulled_limit = state["limits"]
        self._step, self._total_steps = state["step"], state["total_steps"]
        self._pulled = state["pulled"]
        self._owed = set(state["owed"]) & set(self._kinds)
        known = state["every_n_steps"]
        self._change({kind: known[kind] for kind in self._kinds if kind in known})


def _finer_of(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    """The finer of two cadences of each kind."""
    return {kind: min(n, a.get(kind, n)) for kind, n in b.items()}
