"""Curves between two points of weight space: each point is a mean of a few control points."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from curvwatch.objective.flat_layout import local_dot

# of the integral that is a Bezier curve's length: exact to rounding for the few bends that it has
_QUADRATURE = 64


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve from `controls[0]`, at t = 0, to `controls[-1]`, at t = 1.

    Attributes:
        shape: "chain": straight from each control point to the next; "bezier": the Bezier curve of all
            of them, which touches the ends alone.
        controls: shape (k, size), two at least.
        knots: shape (k,), rising from 0 to 1: the t at which a chain is at each control point.
    """

    shape: Literal["chain", "bezier"]
    controls: Tensor
    knots: Tensor

    @classmethod
    def even(cls, shape: Literal["chain", "bezier"], controls: Tensor) -> Curve:
        """Each segment takes the same part of t, as Garipov et al. (2018) have it."""
        return cls(shape, controls, torch.linspace(0.0, 1.0, len(controls), dtype=torch.float64))

    @classmethod
    def by_length(cls, controls: Tensor) -> Curve:
        """A chain on which t is the share of the length that lies behind."""
        lengths = torch.tensor(segment_lengths(controls), dtype=torch.float64)
        total = float(lengths.sum())
        if not total > 0:
            return cls.even("chain", controls)
        knots = torch.cat([lengths.new_zeros(1), lengths.cumsum(0) / total])
        knots[-1] = 1.0
        return cls("chain", controls, knots)

    def shares(self, t: float) -> list[float]:
        """What each control point counts at `t`: they add up to 1."""
        count = len(self.controls)
        if self.shape == "bezier":
            n = count - 1
            return [math.comb(n, k) * t**k * (1 - t) ** (n - k) for k in range(count)]
        shares = [0.0] * count
        knots = self.knots.tolist()
        i = min(max(int(np.searchsorted(knots, t, side="right")) - 1, 0), count - 2)
        # control points that coincide have no path between them
        width = knots[i + 1] - knots[i]
        part = (t - knots[i]) / width if width > 0 else 0.0
        shares[i], shares[i + 1] = 1.0 - part, part
        return shares

    def at(self, t: float) -> Tensor:
        """The point at `t`, shape (size,); of an end it is the end itself, bit for bit."""
        parts = [(s, w) for s, w in zip(self.shares(t), self.controls, strict=True) if s != 0.0]
        share, first = parts[0]
        point: Tensor = first * share
        for share, w in parts[1:]:
            point.add_(w, alpha=share)
        return point

    @property
    def length(self) -> float:
        """Of the curve, in float64."""
        if self.shape == "chain":
            return math.fsum(segment_lengths(self.controls))
        # |phi'(t)|^2 is a form in the steps between control points, whose inner products are enough
        steps = [after - before for before, after in pairwise(self.controls)]
        gram = np.array([[float(local_dot(u, v)) for v in steps] for u in steps])
        nodes, weights = np.polynomial.legendre.leggauss(_QUADRATURE)
        n = len(steps)
        total = 0.0
        for node, weight in zip(nodes, weights, strict=True):
            t = (node + 1) / 2
            slope = np.array(
                [n * math.comb(n - 1, k) * t**k * (1 - t) ** (n - 1 - k) for k in range(n)]
            )
            total += weight / 2 * math.sqrt(max(0.0, float(slope @ gram @ slope)))
        return float(total)


def segment_lengths(points: Iterable[Tensor]) -> list[float]:
    """Distances between successive points, summed in float64."""
    return [distance(a, b) for a, b in pairwise(points)]


def distance(a: Tensor, b: Tensor) -> float:
    """|b - a| of flat vectors, summed in float64."""
    step = b - a
    return math.sqrt(float(local_dot(step, step)))


def between(a: Tensor, b: Tensor, count: int, *, seed: int, jitter: float) -> Tensor:
    """The control points of a straight path: a, `count` points at equal distances, b.

    Args:
        a: where it begins, shape (size,).
        b: where it ends, shape (size,).
        count: of the points between them.
        seed: of the jitter.
        jitter: each point between is moved by a random vector of this length, relative to |b - a|, so
            that a path which is exactly along a ridge can leave it.

    Returns:
        Shape (count + 2, size).
    """
    generator = torch.Generator().manual_seed(seed)
    off = jitter * distance(a, b)
    points = [a]
    for i in range(1, count + 1):
        point = torch.lerp(a, b, i / (count + 1))
        if off > 0:
            noise = torch.randn(len(a), generator=generator, dtype=torch.float64)
            noise *= off / float(noise.norm())
            point = point + noise.to(device=a.device, dtype=a.dtype)
        points.append(point)
    return torch.stack([*points, b])
