"""How unlike the spectra of layers are: densities by quadrature, and the distances between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from curvwatch.histogram import Histogram
from curvwatch.operators import SymmetricOperator, random_signs, unit

_BINS = 256
# standard deviation of the Gaussian that each eigenvalue is spread by, relative to the range of all
_WIDTH = 0.01


@dataclass(frozen=True)
class Rule:
    """Where a spectral density has its mass, as one random vector sees it.

    Attributes:
        nodes: (m,) float64.
        weights: (m,) float64, of sum 1.
    """

    nodes: np.ndarray
    weights: np.ndarray


def rule_of(operator: SymmetricOperator, *, steps: int, generator: torch.Generator) -> Rule:
    """Gauss quadrature of the spectral density of `operator`, from a vector of random signs.

    Lanczos with full re-orthogonalisation; `steps` products, or as many as there are rows. The mean
    over vectors of the weights of an eigenvalue is its share of the rows (Golub & Welsch 1969; Lin,
    Saad & Yang 2016, section 3.2).
    """
    steps = min(steps, operator.size)
    V = torch.zeros(steps, operator.length, dtype=operator.dtype, device=operator.device)
    V[0] = unit(operator, random_signs(operator, generator))
    T = np.zeros((steps, steps))
    norm, j = 0.0, 0
    for j in range(steps):
        w = operator.matvec(V[j])
        for again in (False, True):
            c = operator.inner(V[: j + 1], w)
            w = w - V[: j + 1].T @ c.to(w.dtype)
            T[j, j] += float(c[j]) if not again else 0.0
        beta = float(operator.inner(w[None], w)[0].clamp(min=0.0).sqrt())
        norm = max(norm, abs(T[j, j]) + beta)
        if not math.isfinite(norm):
            return Rule(np.full(1, np.nan), np.full(1, np.nan))
        if j + 1 == steps or beta <= 16 * torch.finfo(w.dtype).eps * norm:
            break
        T[j, j + 1] = T[j + 1, j] = beta
        V[j + 1] = w / beta
    nodes, S = np.linalg.eigh(T[: j + 1, : j + 1])
    return Rule(nodes, S[0] ** 2)


def densities(rules: Mapping[str, Sequence[Rule]]) -> dict[str, Histogram]:
    """The density of each layer by the mean of its rules, on the same bins for all.

    Each eigenvalue is spread by a Gaussian whose standard deviation is 1 % of the range of all layers'
    eigenvalues, which are taken as they are: not divided by anything.
    """
    nodes = np.concatenate([rule.nodes for each in rules.values() for rule in each])
    low, high = float(nodes.min()), float(nodes.max())
    width = _WIDTH * (high - low) or _WIDTH * max(abs(high), 1.0)
    edges = np.linspace(low - 4 * width, high + 4 * width, _BINS + 1)
    result = {}
    for name, each in rules.items():
        mass = np.mean([_spread(rule, edges, width) for rule in each], axis=0)
        result[name] = Histogram(edges, mass / mass.sum())
    return result


def heterogeneity(rules: Mapping[str, Sequence[Rule]]) -> float:
    """Mean over pairs of layers of the Jensen-Shannon distance of their densities; nan of one layer."""
    masses = [histogram.weights for histogram in densities(rules).values()]
    if len(masses) < 2:
        return math.nan
    return float(np.mean([jensen_shannon(p, q) for p, q in combinations(masses, 2)]))


def jackknifed(rules: Mapping[str, Sequence[Rule]]) -> float:
    """Standard error of `heterogeneity`, by leaving out one random vector of each layer at a time."""
    count = min(map(len, rules.values()))
    if count < 2:
        return math.nan
    without = [
        heterogeneity({name: [*each[:i], *each[i + 1 :]] for name, each in rules.items()})
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


def _spread(rule: Rule, edges: np.ndarray, width: float) -> np.ndarray:
    """Mass of each bin, shape (bins,)."""
    z = torch.from_numpy((edges[:, None] - rule.nodes) / (math.sqrt(2) * width))
    below = (torch.erf(z).numpy() + 1) / 2 @ rule.weights
    return np.array(np.diff(below).clip(min=0.0))
