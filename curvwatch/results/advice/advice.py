"""What the readings of a run say about its learning rate."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from curvwatch.results.advice.evidence import RATIO, Evidence, Warmup, evidence
from curvwatch.results.advice.rates import Curves, LandscapeSeries
from curvwatch.results.advice.refusals import NoAdviceError
from curvwatch.results.advice.words import RAISE, sentences

if TYPE_CHECKING:
    from curvwatch.results.history import History


@dataclass(frozen=True)
class Advice:
    """The largest constant learning rate that the measured landscape supports, and why.

    Attributes:
        learning_rate: in the settled part of the readings, their second half, the stability ratio
            would have a median of 1 with it, in the quarter of the run where that is lower, and so
            would the ratio of the steps; nan where no advice is given.
        low: with a smaller one every settled reading would be under its edge (single strays apart),
            errors counted; where the run trains, one over the edge counts as at it with the
            learning rate it was made with; and steps, grown in proportion, would lower the loss
            of their own batch.
        high: with a larger one every settled reading would be over its edge, or the steps would.
        warmup: where earlier readings were sharper than that: what to hold, from when to rise, and
            until when; None: there is no need for one.
        could_raise: whether `low` is well above the largest learning rate of the run.
        factor: `learning_rate` over the largest of the run.
        sentences: the advice in words; why there is none, if so.
        evidence: the numbers that it was computed from, by name; learning rates are those of the group
            with the largest.
    """

    learning_rate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    warmup: Warmup | None = None
    could_raise: bool = False
    factor: float = math.nan
    sentences: tuple[str, ...] = ()
    evidence: Mapping[str, float] = field(default_factory=dict)

    @property
    def given(self) -> bool:
        """Whether advice is given; otherwise `sentences` has the reason."""
        return not math.isnan(self.learning_rate)

    def __str__(self) -> str:
        return "\n".join(self.sentences)


class Advices(dict[str, Advice]):
    """An `Advice` for each optimizer and group, by the suffix of its metrics; "" where there is one."""

    @property
    def only(self) -> Advice:
        """The one there is.

        Raises:
            ValueError: there are several; the message has their suffixes.
        """
        if len(self) != 1:
            raise ValueError(
                f"there are {len(self)} advices, pick one by its suffix: {', '.join(map(repr, self))}"
            )
        return next(iter(self.values()))

    def __str__(self) -> str:
        if len(self) == 1:
            return str(self.only)
        return "\n\n".join(f"{suffix[1:]}\n{advice}" for suffix, advice in self.items())


def advise(history: History) -> Advices:
    """What the readings of `history` say about the learning rate of each optimizer and group.

    Example:
        >>> from curvwatch import History
        >>> history = History()
        >>> for step in range(0, 200, 10):
        ...     loss, chi = 1 / (step + 10), 0.1 - 0.04 * (step < 50)
        ...     history.record(step, {"curvature/loss": loss, "curvature/stability_ratio": chi})
        ...     history.record(step, {"curvature/edge": 200.0, "curvature/effective_edge": 380.0})
        >>> round(advise(history).only.learning_rate, 6)
        0.1
    """
    notes = [(note.step, note.text) for note in history.notes]
    curves = {name: history[name] for name in history}
    return advise_curves(curves, doubtful=history.doubtful, notes=notes)


def advise_curves(
    curves: Curves,
    *,
    doubtful: Mapping[str, Collection[int]] | None = None,
    notes: Iterable[tuple[int, str]] = (),
) -> Advices:
    """The same of curves by the names of their metrics.

    Args:
        curves: of the run.
        doubtful: by metric the steps whose values are doubtful.
        notes: step and text of why values are missing.
    """
    kinds = [name.removeprefix(RATIO) for name in curves if name.startswith(RATIO)]
    suffixes = [suffix for suffix in kinds if suffix == "" or suffix[0] == "-"]
    if not suffixes:
        return Advices({"": _none(f"the readings have no {RATIO}; the measure 'sharpness' reads it")})
    texts, advices = list(notes), Advices()
    for suffix in suffixes:
        groups = [name for name in curves if name.startswith(f"curvature/edge{suffix}/")]
        try:
            found = evidence(curves, suffix, doubtful or {}, texts)
        except NoAdviceError as reason:
            advices[suffix] = _none(str(reason))
            continue
        if not groups:
            advices[suffix] = _advice(found, 1.0)
        for name in groups:
            advices[name.removeprefix("curvature/edge")] = _advice(
                found, _share(curves, name, found.used)
            )
    return advices


def _advice(found: Evidence, share: float) -> Advice:
    """For a group whose learning rate is `share` of the largest."""
    if math.isnan(share):
        return _none("this group has no learning rate above 0")
    ramp = found.warmup
    if ramp is not None:
        ramp = ramp._replace(learning_rate=share * ramp.learning_rate)
    return Advice(
        learning_rate=share * found.rate,
        low=share * found.low,
        high=share * found.high,
        warmup=ramp,
        could_raise=found.low >= RAISE * found.current,
        factor=found.rate / found.current,
        sentences=sentences(found, share),
        evidence=found.numbers,
    )


def _share(curves: Curves, name: str, used: LandscapeSeries) -> float:
    """The learning rate of a group over the largest; nan where it has none."""
    edge = curves[name]
    known = np.isfinite(edge.values) & (edge.values > 0)
    if not known.any():
        return math.nan
    rates = 2.0 / np.interp(used.steps, edge.steps[known], edge.values[known])
    return float(np.median(rates / used.rates))


def _none(reason: str) -> Advice:
    return Advice(sentences=(f"No advice: {reason}.",))
