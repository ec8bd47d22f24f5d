"""Distributions of eigenvalues, which heat maps show over time."""

from __future__ import annotations

from collections.abc import Iterable

from curvwatch.charts.chart import match, names_of

DENSITY = "curvature/density"
LAYER_DENSITY = "curvature/layer/<layer>/density"
# of whole networks, and of what
_WHOLE = {
    DENSITY: "the Hessian",
    "gauss_newton/density": "Gauss-Newton",
    "curvature/<matrix>/density": "",
}
_WORDS = {
    "preconditioned": "the preconditioned Hessian",
    "gauss_newton": "Gauss-Newton",
    "fisher": "the Fisher matrix",
}


def is_density(name: str) -> bool:
    """Whether `name` is that of a distribution of eigenvalues."""
    return any(match(pattern, name) for pattern in (*_WHOLE, LAYER_DENSITY))


def whole_densities(names: Iterable[str]) -> list[str]:
    """Those of `names` that are of a whole network, the Hessian's first."""
    names = list(names)
    return [name for pattern in _WHOLE for name in names_of(pattern, names)]


def layer_densities(names: Iterable[str]) -> list[str]:
    """Those of `names` that are of one layer."""
    return names_of(LAYER_DENSITY, names)


def density_title(name: str) -> str:
    """What the distribution `name` shows, in words."""
    for pattern, of in (*_WHOLE.items(), (LAYER_DENSITY, "")):
        if found := match(pattern, name):
            whose = of or _WORDS.get(found.place, found.place)
            suffix = f" ({found.suffix[1:]})" if found.suffix else ""
            return f"density of the eigenvalues of {whose}{suffix}"
    return f"density {name}"
