"""Objects around an optimizer: those that leave its step alone are taken off."""

from __future__ import annotations

# Recognised by the names in the class's ancestry, so that none of these packages is imported.
# Only wrappers whose step is the inner step: one such as Lookahead has `.optimizer` as well.
TRANSPARENT: dict[str, str] = {
    "LightningOptimizer": "lightning, pytorch_lightning: hooks around the step",
    "_FabricOptimizer": "lightning.fabric: hooks around the step",
    "AcceleratedOptimizer": "accelerate: accumulation and loss scaling",
    "SWA": "torchcontrib: averages copies of the weights",
    "EMAOptimizer": "NeMo: averages copies of the weights",
}

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
