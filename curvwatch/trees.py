"""Batches: nested containers of tensors, copied and sized."""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from torch import Tensor

from curvwatch.errors import CurvwatchError

_LEAVES = (Tensor, str, int, float)


def map_containers(
    value: Any,
    leaf: Callable[[Any], Any],
    copies: dict[int, Any] | None = None,
    *,
    is_leaf: Callable[[Any], bool] | None = None,
) -> Any:
    """Copy nested containers of `value`, each leaf replaced by `leaf(it)`.

    Containers are dict-likes, lists, tuples, namedtuples, deques and sets, subclasses included; their
    types, and what else they hold, are kept. A tuple whose leaves stay the same is not copied. One
    container in several places has one copy, also over several calls with the same `copies`, from `id`
    to copy. What `is_leaf` says is one is not looked into.
    """
    if value is None or isinstance(value, _LEAVES):  # most are: look no further
        return leaf(value)
    if is_leaf is not None and is_leaf(value):
        return leaf(value)
    copies = {} if copies is None else copies
    if id(value) in copies:
        return copies[id(value)]
    if isinstance(value, MutableMapping):  # UserDict too, so Hugging Face's BatchEncoding
        mapping: MutableMapping[Any, Any] = {} if type(value) is dict else copy.copy(value)
        if isinstance(getattr(mapping, "data", None), dict):  # copies of a UserDict share its data
            mapping.data = dict(mapping.data)  # type: ignore[attr-defined]
        copies[id(value)] = mapping
        for k, v in value.items():
            mapping[k] = map_containers(v, leaf, copies, is_leaf=is_leaf)
        return mapping
    if isinstance(value, (list, deque)):
        sequence = copies[id(value)] = copy.copy(value)
        for i, v in enumerate(value):
            sequence[i] = map_containers(v, leaf, copies, is_leaf=is_leaf)
        return sequence
    if isinstance(value, tuple):
        parts = [map_containers(v, leaf, copies, is_leaf=is_leaf) for v in value]
        if all(a is b for a, b in zip(parts, value, strict=True)):
            return value
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, set):
        copies[id(value)] = copy.copy(value)
        return copies[id(value)]
    return leaf(value)


def clone_batch(batch: Any) -> Any:
    """A copy of `batch` that the user's code may change in place.

    Tensors are cloned, dataclasses copied field by field; objects with a `clone` method (PyTorch
    Geometric's Data) clone themselves; other objects are copied deeply, or kept where that is
    impossible.
    """
    return map_containers(batch, _clone)


def _clone(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, (str, bytes, int, float, bool, type(None), type)):
        return value
    if callable(getattr(value, "clone", None)):
        return value.clone()
    if dataclasses.is_dataclass(value):
        new = copy.copy(value)
        for f in dataclasses.fields(value):
            if hasattr(value, f.name):
                object.__setattr__(new, f.name, clone_batch(getattr(value, f.name)))
        return new
    try:
        return copy.deepcopy(value)
    except Exception:  # an open file, a lock: nothing that a training step changes
        return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Each tensor in nested containers, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for v in value.values():
            yield from tensors_in(v)
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        for v in value:
            yield from tensors_in(v)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for f in dataclasses.fields(value):
            yield from tensors_in(getattr(value, f.name, None))
    elif callable(getattr(value, "to_dict", None)):  # PyTorch Geometric's Data
        yield from tensors_in(value.to_dict())


def rows_of(batch: Any, start: int, stop: int) -> Any:
    """The examples from `start` to `stop` of `batch`, its tensors cut along their first dimension.

    Cut are tensors whose first dimension is `batch_size(batch)`, and lists and tuples of that length
    that hold no such tensor (texts, boxes); all else stays whole. Tensors share their memory.

    Raises:
        CurvwatchError: there are tensors in an object that is no container.
    """
    size = batch_size(batch)

    def is_per_example(value: Any) -> bool:
        return isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == size

    def lists_examples(value: Any) -> bool:
        return (
            type(value) in (list, tuple)
            and len(value) == size
            and not any(map(is_per_example, tensors_in(value)))
        )

    def cut(value: Any) -> Any:
        if is_per_example(value) or lists_examples(value):
            return value[start:stop]
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            new = copy.copy(value)
            for f in dataclasses.fields(value):
                if hasattr(value, f.name):
                    part = map_containers(getattr(value, f.name), cut, is_leaf=lists_examples)
                    object.__setattr__(new, f.name, part)
            return new
        if not isinstance(value, Tensor) and next(tensors_in(value), None) is not None:
            raise CurvwatchError(f"a {type(value).__name__} cannot be cut into examples")
        return value

    return map_containers(batch, cut, is_leaf=lists_examples)


def batch_size(batch: Any) -> int:
    """Number of examples: the first dimension of the first tensor, as Lightning counts them."""
    for t in tensors_in(batch):
        if t.ndim:
            return int(t.shape[0])
    return 1
