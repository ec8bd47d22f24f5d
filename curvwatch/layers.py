"""The layers of a network: which of its parameters belong together, and what they are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn

from curvwatch.vectors import Layout

# how parameters are put together
By = Literal["module", "parameter"] | Callable[[str], str | None]


def parameter_names(module: nn.Module, params: Sequence[Tensor]) -> tuple[str, ...]:
    """What `module` calls each of `params`; one that it does not hold is `parameter<index>`."""
    known = {id(p): name for name, p in module.named_parameters()}
    return tuple(known.get(id(p), f"parameter{i}") for i, p in enumerate(params))


def check_by(by: object) -> None:
    """Raise a ValueError unless `by` says how parameters are put together."""
    if by not in ("module", "parameter") and not callable(by):
        raise ValueError(
            f"by={by!r}: 'module', 'parameter', or a function from a parameter's name to its layer's "
            "name is needed (None leaves the parameter out)"
        )


def layers_of(names: Sequence[str], by: By) -> dict[str, list[int]]:
    """From each layer's name to the indices of its parameters, in the order of `names`.

    Args:
        names: of the parameters.
        by: "module": those of one submodule are a layer, a parametrized weight with the others of its
            module; "parameter": each is its own; or a function from a parameter's name to its layer's
            name, None to leave it out.
    """
    layers: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        layer = _module_of(name) if by == "module" else name if by == "parameter" else by(name)
        if layer is not None:
            layers.setdefault(str(layer), []).append(i)
    return layers


def part_of(layout: Layout, indices: Sequence[int]) -> Layout:
    """The layout of the parameters at `indices` alone."""
    return Layout(
        shapes=tuple(layout.shapes[i] for i in indices),
        dtypes=tuple(layout.dtypes[i] for i in indices),
        devices=tuple(layout.devices[i] for i in indices),
        dtype=layout.dtype,
        device=layout.device,
        holders=None if layout.holders is None else tuple(layout.holders[i] for i in indices),
    )


def _module_of(name: str) -> str:
    """`blocks.0` of `blocks.0.weight`; a parameter of the root is its own layer."""
    owner = name.partition(".parametrizations.")[0]
    if owner == name:
        owner = name.rpartition(".")[0]
    return owner or name
