"""Spectral densities of layers on shared bins, and how unlike their shapes are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np

from curvwatch.charts.histogram import Histogram
from curvwatch.measures.matrices import ASYMMETRIC
from curvwatch.solvers import Quadrature

_BINS = 256
# standard deviation of the Gaussian that each eigenvalue is spread by, relative to the range of all
_WIDTH = 0.01
# of bins beyond the outermost eigenvalues, in these standard deviations
_TAILS = 4


def densities(rules: Mapping[str, Quadrature]) -> dict[str, Histogram]:
    """The density of each layer by its quadrature, on the same bins for all.

    Each eigenvalue is spread by a Gaussian whose standard deviation is 1 % of the range of all layers'
    eigenvalues, which are taken as they are: not divided by anything.
    """
    low = min(float(rule.nodes.min()) for rule in rules.values())
    high = max(float(rule.nodes.max()) for rule in rules.values())
    width = _WIDTH * (high - low) or _WIDTH * max(abs(high), 1.0)
    edges = np.linspace(low - _TAILS * width, high + _TAILS * width, _BINS + 1)
    masses = {name: rule.density(edges, width).weights for name, rule in rules.items()}
    return {name: Histogram(edges, mass / mass.sum()) for name, mass in masses.items()}


def heterogeneity(rules: Mapping[str, Quadrature], *, floor: float = 0.0) -> float:
    """Mean over pairs of layers of the Jensen-Shannon distance of their normalised densities.

    Each layer's eigenvalues are divided by the largest of their sizes, as far as its quadrature sees
    it, so that scale does not count. Layers whose eigenvalues are zero, or rounding within `floor`,
    have no shape and are left out; nan of less than two.
    """
    normalised = {}
    for name, rule in rules.items():
        scale = float(np.abs(rule.nodes).max())
        # rounding is not symmetric (.2 and more, curvature 1e-5 and less): what is symmetric is there,
        # small beside other layers as it may be
        noise = scale <= floor and rule.asymmetry > ASYMMETRIC
        if scale > 0 and not noise:
            normalised[name] = replace(rule, nodes=rule.nodes / scale)
    if len(normalised) < 2:
        return math.nan
    masses = [histogram.weights for histogram in densities(normalised).values()]
    return float(np.mean([jensen_shannon(p, q) for p, q in combinations(masses, 2)]))


def jackknife_stderr(rules: Mapping[str, Quadrature], *, floor: float = 0.0) -> float:
    """Standard error of `heterogeneity`, by leaving out one random vector of each layer at a time."""
    count = min(len(rule.nodes) for rule in rules.values())
    if count < 2:
        return math.nan
    without = [
        heterogeneity({name: rule.without(i) for name, rule in rules.items()}, floor=floor)
        for i in range(count)
    ]
    return float(math.sqrt((count - 1) * np.var(without)))


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """The Jensen-Shannon distance: square root of the divergence in base 2, so from 0 to 1.

    As scipy.spatial.distance.jensenshannon(p, q, base=2).
    """
    m = (p + q) / 2
    return math.sqrt(max(0.0, (_divergence(p, m) + _divergence(q, m)) / 2))


def _divergence(p: np.ndarray, m: np.ndarray) -> float:
    there = p > 0
    return float((p[there] * np.log2(p[there] / m[there])).sum())
