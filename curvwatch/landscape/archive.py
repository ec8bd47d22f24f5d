"""Results as .npz files: arrays and plain values, no pickle."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np

from curvwatch.errors import CurvwatchError

# arrays by name, and plain values by name
Content: TypeAlias = tuple[dict[str, np.ndarray], dict[str, Any]]
A = TypeVar("A", bound="Archived")

_VERSION = 1
_HEAD = "curvwatch"
# what reading no .npz, or a damaged one, raises; also that it is encrypted
NO_ARCHIVE = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)


def write(
    path: str | os.PathLike[str],
    what: str,
    *,
    arrays: Mapping[str, np.ndarray],
    values: Mapping[str, Any],
) -> Path:
    """Write a result; the file is replaced as a whole.

    Args:
        path: of the file; ".npz" is added where it is missing.
        what: the kind of result.
        arrays: by name.
        values: numbers (nan and inf are kept), texts, lists of them, None.

    Returns:
        The path of the file.

    Raises:
        CurvwatchError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".npz":
        path = path.with_name(path.name + ".npz")
    head = json.dumps({"version": _VERSION, "what": what, "values": dict(values)})
    content: dict[str, Any] = {_HEAD: np.array(head), **arrays}
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(unfinished, "wb") as file:
            np.savez(file, **content)  # weights do not compress
        unfinished.replace(path)
    except OSError as error:
        raise CurvwatchError(f"the {what} cannot be written to {path}: {error}") from error
    return path


def read(path: str | os.PathLike[str], what: str) -> Content:
    """Read what `write` wrote: the arrays and the values.

    Raises:
        CurvwatchError: there is no such file, it is none of `write`'s, holds another kind of result,
            or is damaged.
    """
    try:
        # numpy leaves what it cannot read open
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        head = json.loads(str(arrays.pop(_HEAD)))
        version, found, values = head["version"], head["what"], head["values"]
    except FileNotFoundError as error:
        raise CurvwatchError(f"there is no file {path}") from error
    except NO_ARCHIVE as error:
        raise CurvwatchError(f"{path} is no {what!r} that curvwatch saved, or is truncated") from error
    if version != _VERSION:
        raise CurvwatchError(f"{path} has version {version!r}; this curvwatch reads version {_VERSION}")
    if found != what:
        raise CurvwatchError(f"{path} is of another kind, {found!r}: {what!r} is needed")
    return arrays, values


@contextmanager
def made_from(path: str | os.PathLike[str]) -> Iterator[None]:
    """Around what makes a result of what `read` returned.

    Raises:
        CurvwatchError: something in the file is missing, or is not what it should be.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CurvwatchError(f"{path} is damaged: {error}") from error


class Archived:
    """Saves and loads a dataclass by its fields.

    A field is an array, a plain value, a mapping or tuple of plain values, or, where its default is a
    dataclass, one of that class.
    """

    _WHAT: ClassVar[str]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the result as a .npz file without pickle; ".npz" is added where it is missing.

        Returns:
            The path of the file.

        Raises:
            CurvwatchError: the file cannot be written.
        """
        arrays, values = self._pack()
        return write(path, self._WHAT, arrays=arrays, values=values)

    @classmethod
    def load(cls: type[A], path: str | os.PathLike[str]) -> A:
        """Read what `save` wrote; tensors are on the CPU.

        Raises:
            CurvwatchError: there is no such file, it holds no result of this class, or is damaged.
        """
        arrays, values = read(path, cls._WHAT)
        with made_from(path):
            result = cls._unpack(arrays, values)
        if not isinstance(result, cls):
            raise CurvwatchError(f"{path} holds a {type(result).__name__} and no {cls.__name__}")
        return result

    def _pack(self) -> Content:
        arrays: dict[str, np.ndarray] = {}
        values: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]  # a mixin of dataclasses
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                arrays[field.name] = value
            elif is_dataclass(value):
                values |= {f"{field.name}_{name}": part for name, part in vars(value).items()}
            else:
                values[field.name] = dict(value) if isinstance(value, Mapping) else value
        return arrays, values

    @classmethod
    def _unpack(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> Any:
        """A result made of what `_pack` returned."""
        content: dict[str, Any] = {**values, **arrays}
        arguments: dict[str, Any] = {}
        for field in fields(cls):  # type: ignore[arg-type]
            default: Any = field.default
            if is_dataclass(default):
                parts = {n: content[f"{field.name}_{n}"] for n in vars(default)}
                make: Any = type(default)
                arguments[field.name] = make(**parts)
            elif field.name in content:
                value = content[field.name]
                arguments[field.name] = tuple(value) if isinstance(value, list) else value
        return cls(**arguments)
