"""The table of laws, and which entry an optimizer's step belongs to."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch.optim import Optimizer

from curvwatch.stability.adafactor import ADAFACTOR
from curvwatch.stability.adam import ADAM, ADAMAX, ADAMW, NADAM, RADAM
from curvwatch.stability.law import Law
from curvwatch.stability.rms import ADADELTA, ADAGRAD, RMSPROP
from curvwatch.stability.sgd import SGD

LAWS: dict[type, Law] = {
    torch.optim.SGD: SGD,
    torch.optim.Adam: ADAM,
    torch.optim.AdamW: ADAMW,
    torch.optim.Adamax: ADAMAX,
    torch.optim.NAdam: NADAM,
    torch.optim.RAdam: RADAM,
    torch.optim.RMSprop: RMSPROP,
    torch.optim.Adagrad: ADAGRAD,
    torch.optim.Adadelta: ADADELTA,
}
if hasattr(torch.optim, "Adafactor"):  # since torch 2.5
    LAWS[torch.optim.Adafactor] = ADAFACTOR


def register_law(optimizer_class: type, law: Law) -> None:
    """Teach `stability_law` an optimizer that has no law of its own here.

    The entry counts for the class and for its subclasses that do not override ``step``; it goes
    before every built-in law and refusal, and a second call replaces the first.

    Args:
        optimizer_class: the class, not an instance; a wrapper's class works too, as long as its
            instances have ``param_groups`` and ``state``.
        law: the entry, of the same type as the built-in ones in `LAWS`.

    Raises:
        TypeError: if an argument has another type.

    Example:
        >>> from curvwatch.stability import Law, Update, register_law, stability_law
        >>> class HalfStep(torch.optim.SGD):
        ...     @torch.no_grad()
        ...     def step(self, closure=None):
        ...         for group in self.param_groups:
        ...             for p in group["params"]:
        ...                 p.sub_(p.grad, alpha=group["lr"] / 2)
        >>> register_law(HalfStep, Law(
        ...     update=lambda param, group, state: Update(lr=group["lr"] / 2),
        ...     formula="edge = 4/lr, P = I",
        ...     reference="one line of algebra",
        ... ))
        >>> stability_law(HalfStep([torch.nn.Parameter(torch.zeros(3))], lr=0.1)).edge
        40.0
    """
    if not isinstance(optimizer_class, type):
        raise TypeError(
            f"register_law takes the optimizer's class, got an instance: {optimizer_class!r}; "
            f"pass {type(optimizer_class).__name__}"
        )
    if not isinstance(law, Law):
        raise TypeError(
            f"register_law({optimizer_class.__name__}, ...) takes a curvwatch.stability.Law, got "
            f"{type(law).__name__}; wrap a function as Law(update=function, formula=..., "
            "reference=...)"
        )
    LAWS[optimizer_class] = law


def known_base(optimizer_class: type) -> type | None:
    """The nearest class with a law among a class and its bases."""
    return next((base for base in optimizer_class.__mro__ if base in LAWS), None)


def find_law(optimizer: object) -> Law | None:
    """The law of an optimizer's step; None if it has none or may step otherwise than its base.

    Args:
        optimizer: an optimizer, wrappers taken off.
    """
    cls = type(optimizer)
    base = known_base(cls)
    if base is None or overrides_step(optimizer, base):
        return None
    return LAWS[base]


def overrides_step(optimizer: object, base: type) -> bool:
    """Whether an optimizer moves its weights by other code than `base` does.

    A subclass that changes no more than ``__init__`` has its parent's step: a law reads the
    settings from ``param_groups``.
    """
    if any(
        _own_code(getattr(type(optimizer), name, None)) is not _own_code(getattr(base, name, None))
        for name in ("step", "_init_group")
    ):
        return True
    patched = getattr(optimizer, "__dict__", {}).get("step")
    return patched is not None and _own_code(patched) is not _own_code(getattr(base, "step", None))


def _own_code(method: object) -> object:
    """The function below torch's own wrappers: hooks, no_grad, compile, a scheduler's counter.

    A wrapper from anywhere else stays, since it may change the step.
    """
    function: Any = method
    while True:
        if isinstance(function, MethodType):
            function = function.__func__
        home = str(getattr(function, "__globals__", {}).get("__name__", ""))
        if not home.startswith("torch.") or not hasattr(function, "__wrapped__"):
            return function
        function = function.__wrapped__


def is_torch_class(optimizer_class: type) -> bool:
    """Whether a class is torch.optim's own and not merely named so."""
    return getattr(torch.optim, optimizer_class.__name__, None) is optimizer_class and issubclass(
        optimizer_class, Optimizer
    )
