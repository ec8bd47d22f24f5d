"""Kernels whose backward pass can be differentiated, and rightly."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Keep torch to operations with a right second derivative.

    Attention is computed by its formula, RNNs without cuDNN, compiled functions run eagerly, the weight
    norm is written out, embeddings have dense gradients, reentrant checkpoints are none. Backward
    passes belong inside, too: the other kind of checkpoint runs code again in them.
    """
    with ExitStack() as stack:
        for context in _contexts():
            stack.enter_context(context)
        yield


def _contexts() -> Iterator[AbstractContextManager[Any]]:
    yield sdpa_kernel(SDPBackend.MATH)
    if torch.backends.cudnn.is_available():
        yield torch.backends.cudnn.flags(enabled=False)
    if hasattr(torch.compiler, "set_stance"):  # torch >= 2.6
        yield torch.compiler.set_stance("force_eager")
    yield _weight_norm_written_out()
    yield _embeddings_with_dense_gradients()
    yield _checkpoints_run_directly()


@contextmanager
def _weight_norm_written_out() -> Iterator[None]:
    """The fused weight norm has a wrong second derivative: it takes the norm for a constant."""

    def written_out(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
        return v * (g / torch.norm_except_dim(v, 2, dim))

    fused = torch._weight_norm
    # by its name: in the package a function of the same name hides the module
    places: list[Any] = [torch, sys.modules["torch.nn.utils.weight_norm"]]
    try:
        for module in places:
            module._weight_norm = written_out
        yield
    finally:
        for module in places:
            module._weight_norm = fused


@contextmanager
def _embeddings_with_dense_gradients() -> Iterator[None]:
    """A sparse gradient has no second derivative, and no place in a flat vector."""
    # where `sparse` is among the arguments that torch.nn.functional gives, all by position
    places = {"embedding": 4, "embedding_bag": 5}
    originals = {name: getattr(torch, name) for name in places}

    def dense(name: str, *args: Any, **kwargs: Any) -> Any:
        arguments, place = list(args), places[name]
        arguments[place : place + 1] = [False] * (len(args) > place)
        kwargs.pop("sparse", None)
        return originals[name](*arguments, **kwargs)

    try:
        for name in places:
            setattr(torch, name, partial(dense, name))
        yield
    finally:
        for name, original in originals.items():
            setattr(torch, name, original)


class _Direct:
    """In place of the function behind `checkpoint(..., use_reentrant=True)`."""

    @staticmethod
    def apply(function: Any, preserve_rng_state: bool, *args: Any) -> Any:
        """Run `function`, and keep what it computes."""
        return function(*args)


@contextmanager
def _checkpoints_run_directly() -> Iterator[None]:
    """A reentrant checkpoint hides its parameters from autograd.grad, which takes them for unused."""
    original = torch.utils.checkpoint.CheckpointFunction
    torch.utils.checkpoint.CheckpointFunction = _Direct  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        torch.utils.checkpoint.CheckpointFunction = original  # type: ignore[misc]
