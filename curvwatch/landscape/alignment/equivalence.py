"""Whether two states of a module compute the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from curvwatch.errors import CurvwatchError
from curvwatch.landscape.checkpoints import tensors_of
from curvwatch.objective.isolation.containers import map_containers
from curvwatch.objective.isolation.isolate import ModuleState, isolated

# of the largest output, where sums come in another order
_ROUNDING = 1e-9
_EXAMPLES = 8
# images of these sizes are tried where the inputs of a convolution are not known
_SIDES = (8, 16, 28, 32, 64, 96, 128, 224)


def output_difference(
    module: nn.Module,
    one: Mapping[str, Tensor],
    other: Mapping[str, Tensor],
    *,
    chain: nn.Module | None,
    inputs: Any,
    forward: Callable[[nn.Module, Any], Tensor] | None,
    seed: int,
) -> tuple[float, float]:
    """How far the outputs of two states of `module` differ, in eval mode and float64.

    Both begin with the same random state. A module that cannot compute in float64 is compared in its
    own precision.

    Args:
        module: it is left as it is.
        one: its tensors, by name.
        other: likewise.
        chain: the part of it that is called where there are no inputs.
        inputs: of the module; None: random ones of the chain.
        forward: from the module and inputs to outputs; None: the module itself.
        seed: of random inputs.

    Returns:
        The largest difference, relative to the largest output, and how large rounding alone makes it.

    Raises:
        CurvwatchError: the inputs of the chain are not known, or outputs are no tensor.
    """

    def outputs(state: Mapping[str, Tensor], inputs: Any, dtype: torch.dtype | None) -> Tensor:
        isolated_module.load({}, train=False, random=start)
        # copies, while the module is isolated
        for name, t in tensors_of(module).items():
            t.data = _copy_tensor(state[name], t.device, dtype)
        inputs = map_containers(
            inputs, lambda x: _copy_tensor(x, device, dtype) if _is_tensor(x) else x
        )
        with torch.no_grad():
            if random:
                made = chain(inputs)  # type: ignore[misc]
            else:
                made = module(inputs) if forward is None else forward(module, inputs)
        if not _is_tensor(made):
            raise CurvwatchError(
                f"the outputs are a {type(made).__name__}: forward=lambda module, inputs: ... has to "
                "return a tensor"
            )
        result: Tensor = made.detach().double()
        return result

    random = inputs is None
    device = next(module.parameters()).device
    start = ModuleState.of(module).random_state()
    with isolated(module) as isolated_module:
        if random:
            assert chain is not None
            inputs = _inputs_of(chain, lambda x: outputs(one, x, torch.float64), seed)
        dtype: torch.dtype | None = torch.float64
        allowed = _ROUNDING
        try:
            first = outputs(one, inputs, dtype)
        except RuntimeError:
            # float32 in the midst of its forward
            dtype, allowed = None, torch.finfo(torch.float32).eps ** 0.5
            first = outputs(one, inputs, dtype)
        second = outputs(other, inputs, dtype)
    largest = float(first.abs().max())
    off = float((first - second).abs().max())
    return (off / largest if largest > 0 else off), allowed


def _inputs_of(chain: nn.Module, call: Callable[[Tensor], Tensor], seed: int) -> Tensor:
    """Random inputs for which the chain can be called."""
    generator = torch.Generator().manual_seed(seed)
    first = next(m for m in chain.modules() if isinstance(m, (nn.Linear, nn.Embedding, _ConvNd)))
    if isinstance(first, nn.Linear):
        return torch.randn(_EXAMPLES, first.in_features, generator=generator)
    if isinstance(first, nn.Embedding):
        return torch.randint(first.num_embeddings, (_EXAMPLES, _EXAMPLES), generator=generator)
    places = first.weight.ndim - 2
    for side in _SIDES:
        x = torch.randn(_EXAMPLES, first.in_channels, *[side] * places, generator=generator)
        try:
            call(x)
        except RuntimeError:  # another side is meant
            continue
        return x
    raise CurvwatchError(
        f"the input shape of the chain is unknown (images of the sides {_SIDES} do not fit): give "
        "inputs, to check that the permuted network computes the same"
    )


def _copy_tensor(t: Tensor, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    """On `device`, numbers with a point in `dtype`; whatever is done to it does nothing to `t`."""
    wanted = dtype if dtype is not None and t.is_floating_point() else t.dtype
    return t.detach().to(device, wanted, copy=True)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
