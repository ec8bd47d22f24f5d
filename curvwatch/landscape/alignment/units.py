"""Which axes of which weights belong to the same hidden units, in networks that are chains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from curvwatch.errors import CurvwatchError

# from each tensor's name to the permutation of each of its axes, None for one that stays
Spec: TypeAlias = Mapping[str, tuple[str | None, ...]]

ADVICE = (
    "say which axes belong together: spec={'fc1.weight': ('h1', None), 'fc1.bias': ('h1',), "
    "'fc2.weight': (None, 'h1'), ...}"
)
# units that are permuted before these are permuted alike after them
_EACH_BY_ITSELF = (
    nn.Identity,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.RReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.Hardtanh,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Tanhshrink,
    nn.LogSigmoid,
    nn.Threshold,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
_LAST_NORMS: tuple[type[nn.Module], ...] = (
    nn.LayerNorm,
    nn.RMSNorm,
)
_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, *_LAST_NORMS)
_EACH_CHANNEL_BY_ITSELF = (
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.LPPool1d,
    nn.LPPool2d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
    nn.Upsample,
    nn.ZeroPad1d,
    nn.ZeroPad2d,
    nn.ZeroPad3d,
    nn.ReflectionPad1d,
    nn.ReflectionPad2d,
    nn.ReplicationPad1d,
    nn.ReplicationPad2d,
)


def chain_of(module: nn.Module) -> tuple[str, nn.Sequential]:
    """The nn.Sequential that `module` is, or that holds all of its weights, and its name in it.

    Raises:
        CurvwatchError: there is none; the message says what would help.
    """
    name, at = "", module
    while not isinstance(at, nn.Sequential):
        # buffers beside it, such as the weights of classes, have nothing of hidden units
        inner = [(n, m) for n, m in at.named_children() if any(True for _ in m.parameters())]
        if len(inner) != 1 or any(True for _ in at.parameters(recurse=False)):
            raise CurvwatchError(
                f"{type(module).__name__} is no chain of layers (nn.Sequential), nor are its weights "
                f"all in one, so which hidden units belong together is unknown: {ADVICE}"
            )
        name, at = f"{name}{inner[0][0]}.", inner[0][1]
    if type(at).forward is not nn.Sequential.forward:
        raise CurvwatchError(
            f"{type(at).__name__} is an nn.Sequential with a forward of its own, so the order of its "
            f"layers is unknown: {ADVICE}"
        )
    return name, at


def units_of(chain: nn.Sequential, prefix: str = "") -> dict[str, tuple[str | None, ...]]:
    """The spec of a chain: the units between each two of its layers are a permutation.

    It is called after the layer that makes the units. The first layer's inputs and the last one's
    outputs stay.

    Args:
        chain: linear layers, convolutions, embeddings, normalisations, and what acts on each unit by
            itself.
        prefix: of the names.

    Raises:
        CurvwatchError: what a layer does with permuted units is unknown; the message names it.
    """
    layers = [(prefix + name, layer) for name, layer in _layers(chain)]
    seen: set[int] = set()
    for name, layer in layers:
        if id(layer) in seen and _holds_something(layer):
            raise CurvwatchError(
                f"{name} ({type(layer).__name__}) comes more than once in the chain, so its units "
                f"stand in several places: {ADVICE}"
            )
        seen.add(id(layer))
    makers = [i for i, (_, layer) in enumerate(layers) if _makes_units(layer)]
    if not makers:
        raise CurvwatchError(
            "the chain has no linear layer and no convolution: there is no hidden unit"
        )
    spec: dict[str, tuple[str | None, ...]] = {}
    units = _Units(None)
    for i, (name, layer) in enumerate(layers):
        made = name if _makes_units(layer) and i != makers[-1] else None
        spec.update(_axes(name, layer, units, made))
        units = _after(layer, units, made)
    return spec


@dataclass(frozen=True)
class _Units:
    """What lies between two layers.

    Attributes:
        name: of the permutation, None where there is none.
        channels: whether units are channels, in dimension 1, with places behind; else the last one.
    """

    name: str | None
    channels: bool = False


def _after(layer: nn.Module, units: _Units, made: str | None) -> _Units:
    if isinstance(layer, nn.Flatten):  # a channel becomes a block of units
        return _Units(units.name)
    if _makes_units(layer):
        return _Units(made, channels=isinstance(layer, _ConvNd))
    return units


def _layers(chain: nn.Sequential) -> Iterator[tuple[str, nn.Module]]:
    for name, layer in chain._modules.items():
        if layer is None:
            continue
        if isinstance(layer, nn.Sequential) and type(layer).forward is nn.Sequential.forward:
            for inner, each in _layers(layer):
                yield f"{name}.{inner}", each
        else:
            yield name, layer


def _makes_units(layer: nn.Module) -> bool:
    if isinstance(layer, _ConvNd):
        return not _is_depthwise(layer)
    return isinstance(layer, (nn.Linear, nn.Embedding))


def _is_depthwise(layer: _ConvNd) -> bool:
    return layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels


def _axes(
    name: str, layer: nn.Module, units: _Units, made: str | None
) -> dict[str, tuple[str | None, ...]]:
    """The spec of one layer that gets `units` and makes `made`."""
    unit = units.name
    if unit is not None and not _takes(layer, units):
        raise _unknown(name, layer)
    if not _holds_something(layer):
        return {}
    tensors = [*layer._parameters.items(), *layer._buffers.items()]
    held = {n: t for n, t in tensors if t is not None}
    axes: dict[str, tuple[str | None, ...]] = {}
    if isinstance(layer, _ConvNd):
        rest = (None,) * (held["weight"].ndim - 2)
        if _is_depthwise(layer):
            axes = {"weight": (unit, None, *rest), "bias": (unit,)}
        elif isinstance(layer, _ConvTransposeNd):
            axes = {"weight": (unit, made, *rest), "bias": (made,)}
        else:
            axes = {"weight": (made, unit, *rest), "bias": (made,)}
    elif isinstance(layer, nn.Linear):
        axes = {"weight": (made, unit), "bias": (made,)}
    elif isinstance(layer, nn.Embedding):
        axes = {"weight": (None, made)}
    elif isinstance(layer, nn.PReLU):
        axes = {"weight": (unit if layer.num_parameters > 1 else None,)}
    elif isinstance(layer, _NORMS):
        # over the places behind channels it has nothing of single channels
        own = None if units.channels and isinstance(layer, _LAST_NORMS) else unit
        axes = {n: (own,) if t.ndim else () for n, t in held.items()}
    inside = {n for n, _ in [*layer.named_parameters(), *layer.named_buffers()]}
    if inside - set(axes):  # parametrized, or a module with modules of its own
        raise _unknown(name, layer)
    return {f"{name}.{n}": axes[n] for n in axes if n in held}


def _takes(layer: nn.Module, units: _Units) -> bool:
    """Whether units that change places before `layer` change places after it, or are used up."""
    if isinstance(layer, _ConvNd):
        return units.channels and (layer.groups == 1 or _is_depthwise(layer))
    if isinstance(layer, nn.Linear):
        return not units.channels
    if isinstance(layer, nn.Flatten):
        return layer.start_dim == 1 and layer.end_dim == -1
    if isinstance(layer, nn.GroupNorm):
        return layer.num_groups in (1, layer.num_channels)
    if isinstance(layer, _LAST_NORMS):
        return len(cast(Any, layer).normalized_shape) == 1
    if isinstance(layer, (*_EACH_CHANNEL_BY_ITSELF, _InstanceNorm)):
        return units.channels
    return type(layer) in _EACH_BY_ITSELF or isinstance(layer, (_BatchNorm, nn.PReLU))


def _holds_something(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


def _unknown(name: str, layer: nn.Module) -> CurvwatchError:
    return CurvwatchError(
        f"it is not known what {name} ({type(layer).__name__}) does with hidden units that change "
        f"places: {ADVICE}"
    )
