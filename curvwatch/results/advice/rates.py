"""Learning rates at which a measured run would have been at its edge of stability."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from curvwatch.charts import CurveLike

# of several learning rates the edges of one law lie on a line, to the rounding of a log in float32
_AFFINE, _VARIED = 1e-5, 1.1
# eigenvalues with a larger relative residual are not used
_COARSEST = 0.1
# chi over this while steps do not overshoot, the next so many steps, or readings if these are more, is
# no instability: over the edge by so much the oscillation doubles at each step
_OVER, _AFTER_STEPS, _AFTER_READINGS = 1.5, 20, 5
_CALM, _CALM_MOST = 0.5, 1.0
# once a scheduler halved the learning rate, sharpness rises with the new edge
_LOWERED = 0.5
# of momenta
_MOST = 0.999


Curves = Mapping[str, CurveLike]


@dataclass(frozen=True)
class LandscapeSeries:
    """The readings of the landscape that can be used, of one optimizer; all arrays (n,).

    Attributes:
        steps: of each.
        rates: learning rate in force, the largest of the groups.
        ratios: chi, effective sharpness over the optimizer's edge.
        at_edge: the learning rate at which chi would be 1.
        errors: relative residual of the eigenvalue; 0 where it was not logged.
        stderrs: relative standard error of sharpness over the batches of the probe; 0 without one.
        momentum: m of heavy ball, b1 of an average, inferred from the edges.
        slowness: chi of a direction over the ratio of a step along it, far from the edge; 1 without
            momentum.
        read: readings there are.
        missing: of these, without a stability ratio.
        doubtful: of these, with doubtful values or a large residual.
        refuted: of these, over the edge by half while no step overshot.
        lowered: of these, after the learning rate was halved.
    """

    steps: np.ndarray
    rates: np.ndarray
    ratios: np.ndarray
    at_edge: np.ndarray
    errors: np.ndarray
    stderrs: np.ndarray
    momentum: float
    slowness: float
    read: int
    missing: int
    doubtful: int
    refuted: int = 0
    lowered: int = 0

    def __len__(self) -> int:
        return len(self.steps)

    def only(self, chosen: np.ndarray) -> LandscapeSeries:
        """Those of a mask, or in the order of an index."""
        names = ("steps", "rates", "ratios", "at_edge", "errors", "stderrs")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})


@dataclass(frozen=True)
class Steps:
    """The readings of steps that can be used.

    Attributes:
        steps: (n,) of each.
        rates: (n,) learning rate in force.
        ratios: (n,) the stability ratio of the step.
    """

    steps: np.ndarray
    rates: np.ndarray
    ratios: np.ndarray

    def __len__(self) -> int:
        return len(self.steps)


def landscapes(curves: Curves, suffix: str, doubtful: Mapping[str, Collection[int]]) -> LandscapeSeries:
    """The readings of the optimizer with `suffix`."""
    metric = f"curvature/stability_ratio{suffix}"
    steps, chi = curves[metric].steps, curves[metric].values

    def other(name: str, missing: float) -> np.ndarray:
        return _at(curves.get(f"curvature/{name}{suffix}"), steps, missing)

    textbook, edge = other("edge", np.nan), other("effective_edge", np.nan)
    residual = np.nan_to_num(other("residual", 0.0), nan=np.inf)
    sharpness, stderr = other("sharpness", np.nan), other("sharpness_stderr", 0.0)
    known = np.isfinite(chi) & np.isfinite(edge) & (textbook > 0) & np.isfinite(textbook)
    in_doubt = np.isin(steps, np.asarray(sorted(doubtful.get(metric, ())), dtype=np.int64))
    in_doubt = known & (in_doubt | (residual > _COARSEST))
    use = known & ~in_doubt
    rates, chi_used, edge_used = 2.0 / textbook[use], chi[use], edge[use]
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.nan_to_num(np.abs(stderr / sharpness), nan=0.0, posinf=0.0)[use]
    momentum, slowness = _momentum(edge_used * rates / 2.0)
    return LandscapeSeries(
        steps=steps[use],
        rates=rates,
        ratios=chi_used,
        at_edge=_rates_at_edge(rates, edge_used, chi_used),
        errors=residual[use],
        stderrs=relative,
        momentum=momentum,
        slowness=slowness,
        read=len(steps),
        missing=int((~known).sum()),
        doubtful=int(in_doubt.sum()),
    )


def steps_of(
    curves: Curves, suffix: str, doubtful: Mapping[str, Collection[int]], seen: LandscapeSeries
) -> Steps:
    """The steps of the same optimizer; learning rates are those that the landscape was read with."""
    metric = f"step/stability_ratio{suffix}"
    if metric not in curves or not len(seen):
        empty = np.empty(0)
        return Steps(empty.astype(np.int64), empty, empty)
    steps, ratios = curves[metric].steps, curves[metric].values
    use = np.isfinite(ratios)
    use &= ~np.isin(steps, np.asarray(sorted(doubtful.get(metric, ())), dtype=np.int64))
    return Steps(steps[use], np.interp(steps[use], seen.steps, seen.rates), ratios[use])


def usable(seen: LandscapeSeries, steps: Steps) -> LandscapeSeries:
    """Without what the steps refute, and what came after the learning rate was lowered."""
    refuted = np.array([_is_refuted(t, x, steps) for t, x in zip(seen.steps, seen.ratios, strict=True)])
    kept = seen.only(~refuted.astype(bool))
    fast = np.flatnonzero(kept.rates >= _LOWERED * kept.rates.max(initial=0.0))
    last = int(fast[-1]) + 1 if len(fast) else 0
    return replace(
        kept.only(np.arange(last)), refuted=int(refuted.sum()), lowered=max(0, len(kept) - last)
    )


def _is_refuted(step: int, ratio: float, steps: Steps) -> bool:
    """Whether no step overshot although chi said that they would grow.

    A probe that is sharper than the loss, and weights that an adaptive optimizer has seen next to no
    gradient of, give such readings: with the first large gradient it divides by that one.
    """
    after = soon_after(steps, step)
    if ratio <= _OVER or not len(after):
        return False
    return bool(np.median(after) < _CALM and np.quantile(after, 0.9) < _CALM_MOST)


def soon_after(steps: Steps, step: int) -> np.ndarray:
    """Ratios of the next 20 steps, or of the next 5 that were read, or the last; (0,) if fewer were."""
    if len(steps) < _AFTER_READINGS:
        return np.empty(0)
    begin = min(int(np.searchsorted(steps.steps, step)), len(steps) - _AFTER_READINGS)
    end = max(int(np.searchsorted(steps.steps, step + _AFTER_STEPS)), begin + _AFTER_READINGS)
    return steps.ratios[begin:end]


def _rates_at_edge(rates: np.ndarray, edge: np.ndarray, chi: np.ndarray) -> np.ndarray:
    """Where chi would be 1 in the same landscape, shape (n,).

    Most edges are c / lr, so it is lr / chi. With weight decay they are c / lr - b: where the learning
    rate varied, c and b are fitted.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        in_proportion = np.where(chi > 0, rates / chi, np.inf)
    if not len(rates) or rates.max() < _VARIED * rates.min():
        return in_proportion
    inverse = 1.0 / rates
    c, b = np.polyfit(inverse, edge, 1)
    if c <= 0 or np.abs(c * inverse + b - edge).max() > _AFFINE * edge.min():
        return in_proportion  # clipping, or a law that drifts: c is that of each reading
    room = chi * edge - b
    with np.errstate(divide="ignore"):
        found: np.ndarray = np.where(room > 0, c / room, np.inf)
    return found


def _momentum(factors: np.ndarray) -> tuple[float, float]:
    """Momentum and slowness, from edge x lr / 2, which is c = 1 / Q(-1).

    c is 1 + m of heavy ball, (1 + m) / (1 + 2 m) of Nesterov, which is under 1, and
    (1 + b) / (1 - b) of an average. Along one direction the step settles at lr / (1 - m) g, of an
    average at lr g, so the slowness is (1 - m) / c and 1 / c. The smallest c is taken: clipping
    makes it larger. Averages with b under 1/3 cannot be distinguished from heavy ball.
    """
    if not len(factors):
        return 0.0, 1.0
    c = float(factors.min())
    if c >= 2.0:
        return min((c - 1.0) / (c + 1.0), _MOST), 1.0 / c
    nesterov = (1.0 - c) / (2.0 * c - 1.0) if c > 0.5 else 0.0
    m = min(max(nesterov if c < 1.0 else c - 1.0, 0.0), _MOST)
    return m, min((1.0 - m) / c, 1.0)


def ratio_of_step(s: np.ndarray, slowness: float) -> np.ndarray:
    """The landscape's chi of the direction of a step whose own ratio is `s`, shape (n,).

    Far from the edge chi is `slowness` x s: along a direction of curvature h a step of heavy ball is
    lr / (1 - m) g, so s = lr h / (2 (1 - m)) while chi = lr h / (2 (1 + m)). At the edge of stability
    both are 1. Between, noise in the gradients of heavy ball has s = chi / (chi + (1 - m) (1 - chi));
    the same form joins the two here. Without momentum s is chi.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((s > 0) & (s < 1), slowness * s / (slowness * s + 1.0 - s), s)


def _at(curve: CurveLike | None, steps: np.ndarray, missing: float) -> np.ndarray:
    """The values of `curve` at `steps`."""
    found = np.full(len(steps), missing)
    if curve is not None and len(curve.steps):
        place = np.searchsorted(curve.steps, steps).clip(0, len(curve.steps) - 1)
        there = curve.steps[place] == steps
        found[there] = curve.values[place[there]]
    return found
