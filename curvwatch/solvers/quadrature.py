"""Spectral densities and spectral sums of a symmetric operator by stochastic Lanczos quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from curvwatch.checks import check_int
from curvwatch.operators.base import SymmetricOperator, random_signs, unit

Function = Callable[[np.ndarray], np.ndarray]
# of the range of the spectrum: the standard deviation that an eigenvalue is spread by in a density
_SIGMA = 0.01
# of the norm times the precision of a vector's entries
_ROUNDED = 16.0


class Estimate(NamedTuple):
    """A value and its errors.

    Attributes:
        value: of the estimate.
        stderr: standard error by the spread over random vectors; nan where there is one.
        truncation: how far a rule of three quarters of the steps is from it; 0 for polynomials of a low
            degree, such as those of trace and Frobenius norm.
    """

    value: float
    stderr: float
    truncation: float = 0.0

    @property
    def error(self) -> float:
        """Both errors as one."""
        return math.hypot(self.stderr, self.truncation)


@dataclass(frozen=True)
class Density:
    """A spectral density by bins.

    Attributes:
        edges: (bins + 1,) float64, rising.
        weights: (bins,) float64: share of the eigenvalues in each bin; the sum is 1 where `edges`
            take in all nodes and the tails of their Gaussians.
        stderr: (bins,) of the weights; nan where there is one random vector.
    """

    edges: np.ndarray
    weights: np.ndarray
    stderr: np.ndarray


@dataclass(frozen=True)
class Quadrature:
    """Gauss rules of the spectral measures of an operator A, one for each random vector.

    The rule of a unit vector u has ``sum(weights * f(nodes)) = u' f(A) u`` for polynomials f of a
    degree below twice the number of nodes, and its mean over u is ``tr f(A) / size``. So trace and
    Frobenius norm have no error but that of few random vectors, which a standard error measures.
    Functions with a kink have one of few nodes, too: compare with a quadrature of more steps.

    Attributes:
        size: number of rows of A.
        nodes: (vectors, steps) float64, rising in each row: Ritz values. A row that found an invariant
            subspace earlier repeats its last node with weight 0.
        weights: (vectors, steps) float64, not negative; each row has the sum 1.
        residuals: (vectors, steps): an eigenvalue of A lies within it of the node.
        asymmetry: the largest entry of the projected matrix that symmetry says is zero, relative to
            its norm: rounding, or an operator that is not symmetric.
        products: operator products spent.
        rounding: nodes this near are the same to rounding.
        shorter: the same vectors' rules of three quarters of the steps; None: this is one.
    """

    size: int
    nodes: np.ndarray
    weights: np.ndarray
    residuals: np.ndarray
    asymmetry: float
    products: int
    rounding: float = 0.0
    shorter: Quadrature | None = None

    @property
    def finite(self) -> bool:
        """Whether all products were finite; else nodes are nan."""
        return bool(np.isfinite(self.nodes).all())

    def without(self, vector: int) -> Quadrature:
        """The rules of all random vectors but the one at that position."""
        nodes, weights, residuals = (
            np.delete(a, vector, axis=0) for a in (self.nodes, self.weights, self.residuals)
        )
        shorter = self.shorter.without(vector) if self.shorter else None
        return replace(self, nodes=nodes, weights=weights, residuals=residuals, shorter=shorter)

    def estimate(self, statistic: Callable[..., float], *functions: Function) -> Estimate:
        """`statistic` of the means over the eigenvalues of each of `functions`.

        Its standard error is by leaving out one random vector at a time (jackknife; Efron & Stein
        1981), which for a mean is the usual one.

        Example:
            >>> from curvwatch.operators import FunctionOperator
            >>> d = torch.tensor([3.0, 1.0, 0.0, 0.0])
            >>> A = FunctionOperator(lambda v: d * v, size=4)
            >>> rule = stochastic_lanczos(A, probes=2, steps=4, generator=torch.Generator())
            >>> round(rule.estimate(lambda m: 4 * m, lambda x: x).value, 4)  # the trace
            4.0
        """
        each = np.array([(self.weights * f(self.nodes)).sum(axis=1) for f in functions])
        value = float(statistic(*each.mean(axis=1)))
        short = self.shorter.estimate(statistic, *functions).value if self.shorter else value
        count = each.shape[1]
        if count == 1:
            return Estimate(value, math.nan, abs(value - short))
        total = each.sum(axis=1)
        without = np.array([statistic(*(total - each[:, i]) / (count - 1)) for i in range(count)])
        stderr = math.sqrt((count - 1) * float(without.var()))
        return Estimate(value, stderr, abs(value - short))

    def sum(self, function: Function) -> Estimate:
        """The sum of `function` over all eigenvalues, tr f(A)."""
        return self.estimate(lambda mean: self.size * mean, function)

    def trace(self) -> Estimate:
        """The sum of the eigenvalues (Hutchinson 1989)."""
        return self.sum(lambda x: x)

    def frobenius_squared(self) -> Estimate:
        """The sum of the squared eigenvalues."""
        return self.sum(np.square)

    def frobenius(self) -> Estimate:
        """The Frobenius norm."""
        return self.estimate(lambda mean: math.sqrt(self.size * mean), np.square)

    def negative_share(self, of: Literal["count", "mass"] = "mass", below: float = 0.0) -> Estimate:
        """Share of the eigenvalues under `below`: of their number, or of the sum of their sizes.

        Nodes that are at `below` to rounding are not under it.
        """
        below -= self.rounding
        if of == "count":
            share = self.estimate(lambda share: share, lambda x: (x < below) * 1.0)
            # what is below lies between the sums without and with the nodes on either side of it
            # (Chebyshev, Markov and Stieltjes; Szego 1975, theorem 3.41.1)
            return share._replace(truncation=self._nearest(below))
        return self.estimate(_ratio, lambda x: np.where(x < below, np.abs(x), 0.0), np.abs)

    def share_below(self, place: float) -> Estimate:
        """Share of the number of eigenvalues under `place`, which lies where they are few.

        Its truncation is the difference to fewer steps, as that of other sums, and no bound as that of
        `negative_share("count")`, which next to a dense bulk is far too wide.
        """
        return self.estimate(lambda share: share, lambda x: (x < place) * 1.0)

    def _nearest(self, place: float) -> float:
        """The larger weight of the two nodes around `place`, the mean over vectors."""
        larger = []
        for nodes, weights in zip(self.nodes, self.weights, strict=True):
            under, over = weights[nodes < place], weights[nodes >= place]
            larger.append(max(under[-1:].max(initial=0.0), over[:1].max(initial=0.0)))
        return float(np.mean(larger))

    def effective_rank(self) -> Estimate:
        """The exponential of the entropy of abs(eigenvalue) / their sum (Roy & Vetterli 2007)."""

        def of(mean: float, mean_of_logs: float) -> float:
            # entropy of p = |x| / S, S = size x mean: log S - sum(|x| log |x|) / S
            if mean <= 0.0:
                return 0.0
            return self.size * mean * math.exp(-mean_of_logs / mean)

        return self.estimate(of, np.abs, _magnitude_log)

    def end(self, *, largest: bool) -> tuple[float, float]:
        """The outermost node at that end and its residual: inside the spectrum, never beyond it."""
        side = self.nodes.max(axis=1) if largest else -self.nodes.min(axis=1)
        row = int(side.argmax())
        column = int(self.nodes[row].argmax() if largest else self.nodes[row].argmin())
        return float(self.nodes[row, column]), float(self.residuals[row, column])

    def edges(self, bins: int = 128, sigma: float | None = None) -> np.ndarray:
        """Equal bins over all nodes and 6 standard deviations around them, shape (bins + 1,)."""
        sigma = self.sigma() if sigma is None else sigma
        low, high = float(self.nodes.min()), float(self.nodes.max())
        return np.linspace(low - 6 * sigma, high + 6 * sigma, bins + 1)

    def sigma(self) -> float:
        """The usual standard deviation of a density's Gaussians: 1 % of the range of the nodes."""
        low, high = float(self.nodes.min()), float(self.nodes.max())
        return _SIGMA * (high - low or max(abs(high), 1.0))

    def density(self, edges: np.ndarray | None = None, sigma: float | None = None) -> Density:
        """Share of the eigenvalues by bins, each spread by a Gaussian (Lin, Saad & Yang 2016).

        Args:
            edges: (bins + 1,) rising; None: `self.edges()`.
            sigma: standard deviation of the Gaussians; None: `self.sigma()`; 0: no spread.
        """
        sigma = self.sigma() if sigma is None else sigma
        edges = self.edges(sigma=sigma) if edges is None else np.asarray(edges, dtype=np.float64)
        each = np.array(
            [_bin_weights(x, w, edges, sigma) for x, w in zip(self.nodes, self.weights, strict=True)]
        )
        count = len(each)
        nan = np.full(each.shape[1], np.nan)
        stderr = each.std(axis=0, ddof=1) / math.sqrt(count) if count > 1 else nan
        return Density(edges, each.mean(axis=0), stderr)


def stochastic_lanczos(
    operator: SymmetricOperator,
    probes: int = 4,
    steps: int = 40,
    *,
    generator: torch.Generator,
) -> Quadrature:
    """Gauss quadrature of the spectral density of `operator`.

    Lanczos from each random vector, with full re-orthogonalisation, so that no eigenvalue comes twice;
    `steps` vectors are kept, and `probes x steps` products are spent. The projected matrix is float64
    whatever the vectors are.

    Args:
        operator: what to look at.
        probes: number of random vectors. The error of a sum falls with the root of it.
        steps: products for each; at most `operator.size` are made.
        generator: of the random signs, on the CPU; where vectors are spread over processes each
            process needs one of its own.

    Raises:
        ValueError: an argument is out of range.

    Sources: Golub & Welsch 1969; Golub & Meurant 1994; Ubaru, Chen & Saad 2017; Ghorbani, Krishnan &
    Xiao 2019.
    """
    for name, number in (("probes", probes), ("steps", steps)):
        check_int(name, number, at_least=1, what="a positive integer")
    steps = min(steps, operator.size)
    V = torch.empty(steps, operator.length, dtype=operator.dtype, device=operator.device)
    fewer = max(1, 3 * steps // 4)
    rules = [_empty(probes, steps), _empty(probes, fewer)]
    asymmetry, products = 0.0, 0
    for i in range(probes):
        V[0] = unit(operator, random_signs(operator, generator))
        T, beta, stray = _project(operator, V)
        products += len(T)
        asymmetry = max(asymmetry, stray)
        if not np.isfinite(T).all():
            return Quadrature(operator.size, *(np.full((1, 1), np.nan),) * 3, math.nan, products)
        for rule in rules:
            m = min(len(T), rule.shape[2])
            rule[:, i] = _gauss(T[:m, :m], T[m, m - 1] if m < len(T) else beta, rule.shape[2])
    norm = np.abs(rules[0][0]).max()
    rounding = _ROUNDED * torch.finfo(operator.dtype).eps * float(norm)
    (long, short), common = rules, (asymmetry, products, rounding)
    n = operator.size
    shorter = Quadrature(n, short[0], short[1], short[2], *common)
    return Quadrature(n, long[0], long[1], long[2], *common, shorter)


def _empty(probes: int, steps: int) -> np.ndarray:
    # nodes, weights, residuals
    return np.full((3, probes, steps), np.nan)


def _gauss(T: np.ndarray, beta: float, steps: int) -> np.ndarray:
    """Nodes, weights and residuals, shape (3, steps), from the projected matrix and the norm left."""
    theta, S = np.linalg.eigh(T)
    rule = np.stack([theta, S[0] ** 2, np.abs(beta * S[-1])])
    missing = np.repeat(rule[:, -1:], steps - len(theta), axis=1)
    missing[1] = 0.0
    return np.concatenate([rule, missing], axis=1)


def _project(operator: SymmetricOperator, V: Tensor) -> tuple[np.ndarray, float, float]:
    """Lanczos from V[0], filling `V`: the projected matrix, the norm left, the relative asymmetry."""
    steps = len(V)
    eps = torch.finfo(operator.dtype).eps
    T = np.zeros((steps, steps))
    stray = norm = 0.0
    for j in range(steps):
        w = operator.matvec(V[j])
        column = np.zeros(j + 1)
        for _ in range(2):  # twice is enough (Kahan; Parlett 1998, section 6.9)
            c = operator.inner(V[: j + 1], w)
            w = w - V[: j + 1].T @ c.to(w.dtype)
            column += c.cpu().numpy()
        beta = float(operator.inner(w[None], w)[0].clamp(min=0.0).sqrt())
        T[j, j] = column[j]
        stray = max(stray, np.abs(column[: max(j - 1, 0)]).max(initial=0.0))
        if j:
            stray = max(stray, abs(column[j - 1] - T[j - 1, j]))
        norm = max(norm, abs(column[j]) + beta)
        if not math.isfinite(norm):
            return np.full((j + 1, j + 1), np.nan), math.nan, math.nan
        if j + 1 == steps or beta <= _ROUNDED * eps * norm:  # the end, or an invariant subspace
            break
        T[j, j + 1] = T[j + 1, j] = beta
        V[j + 1] = w / beta
    return T[: j + 1, : j + 1], beta, stray / norm if norm else 0.0


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _magnitude_log(x: np.ndarray) -> np.ndarray:
    size = np.abs(x)
    return np.array(size * np.log(np.where(size > 0, size, 1.0)))


def _bin_weights(nodes: np.ndarray, weights: np.ndarray, edges: np.ndarray, sigma: float) -> np.ndarray:
    """Weight of each bin, shape (bins,), each node spread by a Gaussian."""
    if sigma == 0.0:
        return np.histogram(nodes, edges, weights=weights)[0]
    z = torch.from_numpy((edges[:, None] - nodes) / (math.sqrt(2.0) * sigma))
    below = (torch.erf(z).numpy() + 1.0) / 2.0 @ weights
    return np.array(np.diff(below).clip(min=0.0))
