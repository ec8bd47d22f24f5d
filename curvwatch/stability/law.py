"""What a law of stability is: how one weight moves, the table's entry, and the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


class NoLaw(Exception):  # noqa: N818  (an answer, not an error: it never leaves stability_law)
    """Raised by a law that does not hold for a group's settings; its text is the reason."""


@dataclass(frozen=True, eq=False)
class Update:
    """How one parameter was moved by the last step, linearised with its preconditioner held still.

    The step is ``w <- (1 - lr d) w - lr P^-1 Q(z) (s g + c w)``, z the forward shift in time and
    s = -1 for an ascending optimizer. At the edge w flips its sign at every step, z = -1.

    Attributes:
        lr: learning rate in force; 0 says that the weight does not move.
        response: Q(-1), the momentum's response to an alternating gradient; 1 without
            momentum, 1 / (1 + m) for heavy ball, (1 - b1) / (1 + b1) for an average.
        preconditioner: diagonal of P, the parameter's shape; None for the identity.
        coupled_decay: c, weight decay that goes through the gradient.
        decoupled_decay: d, weight decay that goes past it, in units of 1 / lr.
        maximize: whether the optimizer ascends.
        note: what could not be seen and so is approximate, in words; None if exact.
    """

    lr: float
    response: float = 1.0
    preconditioner: Tensor | None = None
    coupled_decay: float = 0.0
    decoupled_decay: float = 0.0
    maximize: bool = False
    note: str | None = None


UpdateRule = Callable[[Tensor, Mapping[str, Any], Mapping[str, Any]], Update | None]


@dataclass(frozen=True)
class Law:
    """One entry of the table of laws; a user's own is the same thing.

    Attributes:
        update: ``update(param, group, state)`` with the parameter, its entry of
            ``param_groups`` and its entry of ``optimizer.state`` (empty before its first step).
            Returns the `Update`, None if the parameter has not been stepped yet, or raises
            `NoLaw`. It must not change its arguments.
        formula: the edge and P in terms of the settings.
        reference: where that comes from.
        holds: the conditions under which it holds, beyond P changing slowly.

    Example:
        >>> plain = Law(
        ...     update=lambda param, group, state: Update(lr=group["lr"]),
        ...     formula="edge = 2/lr, P = I",
        ...     reference="my thesis",
        ... )
    """

    update: UpdateRule
    formula: str
    reference: str
    holds: str = ""

    @property
    def source(self) -> str:
        """Formula, conditions and reference in one line."""
        return "; ".join(part for part in (self.formula, self.holds, self.reference) if part)


@dataclass(frozen=True, eq=False)
class StabilityLaw:
    """The edge of stability of an optimizer as it runs now.

    The step is stable along every direction while ``lambda_max(P^-1 (sign H + C)) < edge``, H the
    Hessian of the loss, C = diag(shift). Use the symmetric form P^-1/2 (sign H + C) P^-1/2.

    Attributes:
        optimizer: class name of the optimizer, wrappers taken off.
        edge: the threshold, in the units of P^-1 H; None where there is no law, or not yet.
        preconditioner: one entry a parameter: the diagonal of P with the parameter's shape, in
            float32 or wider; None for the identity. A parameter that does not move (lr 0, frozen,
            never had a gradient, not in this optimizer) has P = inf, so that P^-1/2 is 0.
            Groups with another edge than `edge` have the ratio of the two folded into P.
        shift: one number a parameter: the coupled weight decay that is added to H.
        reason: why `edge` is None, in words.
        source: formula, conditions and reference; empty without a law.
        sign: -1 for ``maximize=True``: the optimizer sees -H.
        note: what is approximate in P and why, in words; None if nothing is.
        adaptive: whether P is made of the gradients.
    """

    optimizer: str
    edge: float | None
    preconditioner: tuple[Tensor | None, ...]
    shift: tuple[float, ...]
    reason: str | None
    source: str
    sign: float = 1.0
    note: str | None = None
    adaptive: bool = False

    @property
    def is_identity(self) -> bool:
        """Whether P^-1 (sign H + C) is H itself, so that plain sharpness is what counts."""
        return (
            self.sign == 1.0
            and all(entry is None for entry in self.preconditioner)
            and not any(self.shift)
        )
