"""The layers of a network: which of its parameters belong together, and what they are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from torch import Tensor, nn

from curvwatch.objective.flat_layout import Layout

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


@dataclass(frozen=True)
class CalledLayer:
    """Parameters, and the module whose forward pass uses them.

    Attributes:
        module: to be called.
        indices: of the parameters.
    """

    module: nn.Module
    indices: tuple[int, ...]


def called_layers(module: nn.Module, names: Sequence[str]) -> dict[str, CalledLayer]:
    """The layers of `layers_of(names, "module")` as they can be seen in a forward pass.

    Weights of a module that nobody calls, for it has no forward of its own (nn.ParameterList) or
    nn.MultiheadAttention takes its weights, belong to the next one outside that can be called.

    Args:
        module: that holds the parameters.
        names: of the parameters, as `parameter_names` gives them.
    """
    modules = dict(module.named_modules())

    def layer(name: str) -> str:
        owner = _module_of(name)
        if owner not in modules:  # of the root, or unknown
            return name
        while owner and not _is_called(modules, owner):
            owner = owner.rpartition(".")[0]
        return owner or name

    return {
        name: CalledLayer(modules.get(name, module), tuple(indices))
        for name, indices in layers_of(names, layer).items()
    }


def _is_called(modules: Mapping[str, nn.Module], name: str) -> bool:
    if type(modules[name]).forward is nn.Module.forward:
        return False
    return not isinstance(modules[name.rpartition(".")[0]], nn.MultiheadAttention)


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


def places_of(layout: Layout, indices: Sequence[int]) -> list[slice]:
    """Where the parameters at `indices` lie in a flat vector."""
    starts = [0, *accumulate(layout.sizes)]
    return [slice(starts[i], starts[i + 1]) for i in indices]


def padding_rows(module: nn.Module, names: Sequence[str], layout: Layout) -> list[slice]:
    """Where the rows of embeddings lie that stand for padding, and have no gradient by definition.

    Of weights that are spread over processes they are unknown.
    """
    if layout.sharded:
        return []
    padding = {
        f"{name}.weight".removeprefix("."): part.padding_idx
        for name, part in module.named_modules()
        if isinstance(part, (nn.Embedding, nn.EmbeddingBag)) and part.padding_idx is not None
    }
    rows = []
    for i, name in enumerate(names):
        if name in padding:
            width = layout.shapes[i][1]
            start = places_of(layout, [i])[0].start + padding[name] * width
            rows.append(slice(start, start + width))
    return rows


def _module_of(name: str) -> str:
    """`blocks.0` of `blocks.0.weight`; a parameter of the root is its own layer."""
    owner = name.partition(".parametrizations.")[0]
    if owner == name:
        owner = name.rpartition(".")[0]
    return owner or name
