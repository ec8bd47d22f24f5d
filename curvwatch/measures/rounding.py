"""What a small preconditioner makes of the rounding of Hessian-vector products."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from curvwatch.measures.base import Landscape
from curvwatch.measures.matrices import inverse_root
from curvwatch.objective.flat_layout import Layout
from curvwatch.objective.linearization import Linearization

# P is small where it is under so many eps of that of the leading directions
_SMALL = 1e3
# by how much two products differ, relative to their size: real ones by less, seen at 1e-6 to 1e-3;
# rounding alone by more, 99 % of one draw, and as a rule of three
_AGREE, _DIFFER = 0.02, 0.2
# coarse products, by differences or in half precision, by so many times what is usual
_OVER_USUAL = 10.0
_MOST_DRAWS = 3
# of an eigenvalue: rounding adds a small part of its Frobenius norm to one
_NOISY = 0.1
# rows that the usual difference is taken of, and parameters that are named
_ROWS, _NAMED = 1 << 20, 3


@dataclass(frozen=True)
class Amplification:
    """What P^-1/2 makes of the rounding of Hessian-vector products.

    Attributes:
        null: indices of the weights that the loss does not depend on, as far as products show; None: of
            none.
        hidden: the largest row of the preconditioned Hessian that could be hidden under the rounding of
            these weights, where products are differences of gradients; else 0.
        noise: what rounding adds to the rows of the other weights with a small P, as a Frobenius norm.
        weights: which weights these are, in words.
    """

    null: Tensor | None = None
    hidden: float = 0.0
    noise: float = 0.0
    weights: str = ""

    def doubt(self, metric: str, value: float) -> str | None:
        """Why `metric`, an eigenvalue, is not to be trusted; None where rounding leaves it be."""
        if self.noise <= _NOISY * abs(value) and self.hidden <= abs(value):
            return None
        return (
            f"{metric} is dominated by rounding: {value:.3g} +- {max(self.noise, self.hidden):.2g}, as "
            "the optimizer's small second moments amplify the rounding of Hessian-vector products in "
            f"{self.weights}; precision='64-true' would resolve it, and where a bias precedes a "
            "normalisation bias=False removes the cause"
        )


def amplification(at: Landscape, point: Linearization, key: str) -> Amplification:
    """What is rounding in P^-1/2 H P^-1/2, kept in memory as `key`; no products where P is not small.

    The loss does not depend on a bias before BatchNorm, nor on the bias of the keys in attention. Their
    gradients and products are rounding alone, so the optimizer's P is tiny there and P^-1/2 amplifies
    it. Products with v and with v / 3 reveal them, which have the same digits but for rounding: where P
    is so small that rounding might matter, and the two differ by as much as they are large, there is
    nothing else. Rows that are tiny but real agree. It takes two products while it finds what it found
    last time, else six.
    """
    none = Amplification()
    if not at.law.adaptive:
        return none
    layout = at.objective.layout
    scale = inverse_root(at.law, layout)
    gradient = torch.where(scale > 0, point.gradient, 0.0)
    seen = torch.where(scale > 0, gradient / scale, 0.0)
    length, preconditioned_length = layout.dot(gradient, gradient), layout.dot(seen, seen)
    if not (0 < length < math.inf and 0 < preconditioned_length < math.inf):
        return none
    # P of the leading directions, among which the gradient is, is about g'Pg / g'g; rounding in an
    # entry of H is some 10 eps x its largest eigenvalue, and matters from 1 % on
    least = _SMALL * torch.finfo(layout.dtype).eps * preconditioned_length / length
    suspects = scale.square() * least > 1.0
    if not at.objective.processes.true_on_any(bool(suspects.any())):
        return none
    generator = torch.Generator().manual_seed(at.generator.initial_seed())
    known = torch.zeros_like(suspects)
    last = at.memory.get(key, ())
    if len(last) and int(last.max()) < layout.size:
        known[last.to(known.device)] = True
    size, off = torch.zeros_like(scale), torch.zeros_like(scale)
    draws = 0
    while True:
        draws += 1
        # no signs: rounding comes of the digits of v, which would be the same in every draw
        v = scale * torch.randn(layout.size, generator=generator, dtype=layout.dtype).to(layout.device)
        one = point.product(v)
        other = 3.0 * point.product(v / 3.0) if point.coarser is None else point.coarser(v)
        size += torch.maximum(one.abs(), other.abs()).square_()
        off += (one - other).square_()
        if at.objective.processes.true_on_any(not bool(torch.isfinite(size).all())):
            return none
        usual = _usual_rounding(size, off, suspects)
        agree = min(max(_AGREE, _OVER_USUAL * usual), _DIFFER)
        null = suspects & (off > torch.where(known, agree / 10, agree).square() * size)
        # a product may be small by chance: what was not found last time is looked at again
        is_known = not at.objective.processes.true_on_any(not torch.equal(null, known))
        if is_known or draws == _MOST_DRAWS:
            break
    null &= known | (off > _DIFFER**2 * size)
    at.memory[key] = null.nonzero()[:, 0]
    rest = suspects & ~null
    rows = scale * off.sqrt() / math.sqrt(2 * draws)
    under = torch.where(null, scale * size.sqrt() / math.sqrt(draws), 0.0)
    return Amplification(
        null=at.memory[key] if at.objective.processes.true_on_any(bool(null.any())) else None,
        hidden=_largest(layout, under) if point.coarser is not None else 0.0,
        noise=_largest(layout, torch.where(rest, rows, 0.0), power=2),
        weights=_describe_weights(suspects & (off > 0), at),
    )


def _largest(layout: Layout, rows: Tensor, *, power: int = 8) -> float:
    """A norm of `rows` over all processes; for power 8 the largest of n, n^(1/8) times it at most."""
    length = math.sqrt(layout.dot(rows, rows))
    if power == 2 or length == 0.0:
        return length
    shares = (rows / length) ** (power // 2)
    return length * float(layout.dot(shares, shares) ** (1 / power))


def _usual_rounding(size: Tensor, off: Tensor, suspects: Tensor) -> float:
    """The median over other rows of how far products are off, relative to their size."""
    step = max(1, len(size) // _ROWS)
    size, off = size[::step], off[::step]
    rows = (size > 0) & ~suspects[::step]
    return math.sqrt(float((off[rows] / size[rows]).median())) if bool(rows.any()) else 0.0


def _describe_weights(rows: Tensor, at: Landscape) -> str:
    """How many weights `rows` are, and of which parameters."""
    ends = torch.tensor(at.objective.layout.sizes).cumsum(0)
    indices = rows.nonzero()[:, 0].cpu()
    of = torch.bucketize(indices, ends, right=True).unique().tolist()
    names = [at.objective.names[i] for i in of]
    more = f" and {len(names) - _NAMED} other parameters" if len(names) > _NAMED else ""
    return f"{len(indices)} weights of {', '.join(names[:_NAMED])}{more}"
