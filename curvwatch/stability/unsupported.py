"""Optimizers without a law, and why, in words for people."""

from __future__ import annotations

import torch

from curvwatch.stability.table import is_torch_class, known_base, overrides_step

# Recognised by the names in the class's ancestry, so that none of these packages is imported.
# Only wrappers whose step is the inner step: one such as Lookahead has `.optimizer` as well.
TRANSPARENT: dict[str, str] = {
    "LightningOptimizer": "lightning, pytorch_lightning: hooks around the step",
    "_FabricOptimizer": "lightning.fabric: hooks around the step",
    "AcceleratedOptimizer": "accelerate: accumulation and loss scaling",
    "SWA": "torchcontrib: averages copies of the weights",
    "EMAOptimizer": "NeMo: averages copies of the weights",
}

# in wrappers of Lightning and Fabric it is the first, a public property
_INNER = ("optimizer", "_optimizer", "base_optimizer")


def ancestry(thing: object) -> list[str]:
    """Names of a thing's class and all its bases."""
    return [base.__name__ for base in type(thing).__mro__]


def inner_optimizer(thing: object) -> object | None:
    """What a thing wraps, if it is something that steps; None otherwise."""
    for name in _INNER:
        inner = getattr(thing, name, None)
        if inner is not None and inner is not thing and hasattr(inner, "param_groups"):
            return inner  # type: ignore[no-any-return]
    return None


def unwrap(optimizer: object) -> object:
    """Take off one transparent wrapper; the thing itself if it is none."""
    if any(name in TRANSPARENT for name in ancestry(optimizer)):
        return inner_optimizer(optimizer) or optimizer
    return optimizer


STILL = "step/stability_ratio still holds"
REGISTER = "if you know its law, give it to curvwatch.stability.register_law"
BY_VALUE = (
    "the gradients are clipped by value: the step is no linear function of the gradient and has "
    f"no edge; {STILL}"
)

_SIGN = "moves by the sign of a momentum: its step does not grow with the gradient"
_AVERAGED = "takes gradients at an average of its iterates, not at the weights it moves"

# torch's own, by identity
_TORCH: dict[str, str] = {
    "ASGD": "scales its step by a schedule of its own and is meant to be read at its average",
    "LBFGS": "solves for a step with a Hessian estimate of its own and may search along a line",
    "Muon": "orthogonalises its momentum: its step does not grow with the gradient",
    "Rprop": "moves by the sign of the gradient with step sizes of its own",
    "SparseAdam": "moves only the rows that have a gradient, so each row of its P is of other steps",
}

# others, by a part of a name in the class's ancestry
_ELSEWHERE: dict[str, str] = {
    "ScheduleFree": _AVERAGED,
    "SignSGD": _SIGN,
    "Signum": _SIGN,
    "Muon": _TORCH["Muon"],
    "Shampoo": "preconditions by matrices, and a law here needs a diagonal P",
    "SOAP": "preconditions by matrices, and a law here needs a diagonal P",
}


def reason_without_law(optimizer: object) -> str:
    """Why an optimizer has no law.

    Args:
        optimizer: one for which `find_law` found none, transparent wrappers taken off.

    Returns:
        One sentence that names the class.
    """
    cls = type(optimizer)
    name = cls.__name__
    names = ancestry(optimizer)
    inner = inner_optimizer(optimizer)
    if _is_sharpness_aware(optimizer, names):
        return (
            f"{name} takes its gradient at perturbed weights (sharpness-aware), where the laws of "
            f"its base optimizer do not hold; {STILL}"
        )
    if "Lion" in names:
        return f"{name} {_SIGN}, so there is no edge; {STILL}"
    for base in cls.__mro__:
        if base.__name__ in _TORCH and is_torch_class(base):
            return f"{name} {_TORCH[base.__name__]}; there is no law for it; {STILL}"
    for part, why in _ELSEWHERE.items():
        if any(part in each for each in names):
            return f"{name} {why}; there is no law for it; {STILL}"
    if inner is not None:
        return (
            f"{name} wraps {type(inner).__name__} and may change its step; if it does not, pass "
            f"the inner optimizer; {REGISTER}; {STILL}"
        )
    parent = known_base(cls)
    if parent is not None and overrides_step(optimizer, parent):
        return (
            f"{name} overrides the step of {parent.__name__}, whose law may not hold for it; "
            f"{REGISTER}; {STILL}"
        )
    if isinstance(getattr(torch.optim, name, None), type):
        return (
            f"{cls.__module__}.{name} has the name of torch.optim.{name}, not its code; "
            f"{REGISTER}; {STILL}"
        )
    return f"{name} is not in the table of laws; {REGISTER}; {STILL}"


def _is_sharpness_aware(optimizer: object, names: list[str]) -> bool:
    two_steps = hasattr(optimizer, "first_step") or hasattr(optimizer, "second_step")
    return "SAM" in names or (two_steps and hasattr(optimizer, "base_optimizer"))
