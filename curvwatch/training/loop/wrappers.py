"""What is around a module in a loop of the user's own: DDP, torch.compile, Fabric.

A reading calls the module without DDP, which would wait for a backward pass, and without
torch.compile, which has no second derivative; Fabric's wrapper stays, for its precision.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrap(module: nn.Module) -> nn.Module:
    """`module` without DDP and torch.compile around it."""
    while True:
        if isinstance(module, (DistributedDataParallel, DataParallel)):
            module = module.module
        elif type(module).__name__ == "OptimizedModule":
            module = module._modules["_orig_mod"]  # type: ignore[assignment]
        else:
            return module


def forward_module(module: nn.Module) -> nn.Module:
    """The module whose call is the forward pass proper: below Fabric's wrapper and DDP.

    DDP sends buffers around before it. torch.compile stays, for it would trace a hook further in.
    """
    while True:
        if isinstance(module, (DistributedDataParallel, DataParallel)):
            module = module.module
        elif _is_fabric(module):
            # private (2.2 to 2.6): the public `module` is the one without DDP and torch.compile
            module = module._modules["_forward_module"]  # type: ignore[assignment]
        else:
            return module


def ddp_inside(module: nn.Module) -> DistributedDataParallel | None:
    """The first DDP in `module`."""
    return next((m for m in module.modules() if isinstance(m, DistributedDataParallel)), None)


def unwrap_children(module: nn.Module) -> None:
    """Take the wrappers off the children of `module`, in place: of an isolated module."""
    for parent in list(module.modules()):
        if _is_fabric(parent):
            # it demands fabric.backward, which a reading has no use for (2.2 to 2.6)
            vars(parent)["_register_backward_hook"] = _unchanged
        for name, child in parent._modules.items():
            if child is not None:
                parent._modules[name] = unwrap(child)


def _is_fabric(module: nn.Module) -> bool:
    """Whether `module` was set up by Fabric; by its class name, so that Lightning is not imported."""
    return type(module).__name__ == "_FabricModule" and "_forward_module" in module._modules


def _unchanged(tensor: Tensor, *_: Any) -> Tensor:
    return tensor
