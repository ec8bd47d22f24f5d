"""What a loss must be to be measured: a scalar with a second derivative."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from curvwatch.errors import CurvwatchError


def scalar_loss(output: Any) -> Tensor:
    """The loss in what a loss function or `training_step` returned.

    Raises:
        CurvwatchError: it is None, or no tensor with a single element; the message says what it is.
    """
    if isinstance(output, Mapping):
        if "loss" not in output:
            raise CurvwatchError(
                f"the step returned a dict with the keys {sorted(map(str, output))} and no 'loss'"
            )
        output = output["loss"]
    if output is None:
        raise CurvwatchError("the step returned None, so there is no loss to measure")
    if not isinstance(output, Tensor):
        raise CurvwatchError(
            f"the step returned {type(output).__name__}; a scalar tensor, or a dict with one under "
            "'loss', is needed"
        )
    if output.numel() != 1:
        raise CurvwatchError(
            f"the loss has the shape {tuple(output.shape)}; a scalar is needed, such as its mean()"
        )
    return output.reshape(())


def refuse_once_differentiable(loss: Tensor) -> None:
    """Raise if the graph of `loss` has a function without a second derivative.

    Autograd returns zeros for it, without a warning.

    Raises:
        CurvwatchError: there is one; the message names it.
    """
    for node in nodes_of(loss):
        function = getattr(node, "_forward_cls", None)
        if function is not None and _is_once_differentiable(function.backward):
            raise CurvwatchError(
                f"the loss passes through {function.__name__}, whose backward is marked "
                "once_differentiable: it has no second derivative, and autograd returns zero; "
                "hvp='difference' takes differences of gradients instead"
            )


@contextmanager
def named_where_missing() -> Iterator[None]:
    """Turn torch's errors about missing derivatives into a `CurvwatchError` that says what helps."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        if "modified by an inplace operation" in str(error):
            raise CurvwatchError(
                "training_step changes a weight, or another tensor that its loss was computed from, in "
                "place after the loss, as sharpness-aware minimization does, so the loss it returns "
                "has no derivative: give a loss that has one, loss_fn=lambda module, batch: ..."
            ) from error
        if "not implemented" not in str(error):
            raise
        raise CurvwatchError(
            f"an operation of the loss has no second derivative in torch ({error}), so its sharpness "
            "cannot be read exactly: hvp='difference' takes differences of gradients instead, and "
            "StepGeometry(curvature='secant') needs first derivatives alone"
        ) from error


def nodes_of(*tensors: Tensor) -> Iterator[Any]:
    """Every node of the autograd graph of `tensors`."""
    stack = [t.grad_fn for t in tensors]
    seen = set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        stack.extend(parent for parent, _ in node.next_functions)


def computes_in_half(tensors: Iterable[Tensor | None]) -> bool:
    """Whether an operation that led to `tensors` had a result in half precision."""
    half = (torch.float16, torch.bfloat16)
    graph = nodes_of(*(t for t in tensors if t is not None))
    return any(m.dtype in half for node in graph for m in node._input_metadata)


def _is_once_differentiable(backward: Any) -> bool:
    # the decorator's wrapper is code of torch's own file, whatever it wraps
    code = getattr(backward, "__code__", None)
    return code is not None and code.co_filename == torch.autograd.function.__file__
