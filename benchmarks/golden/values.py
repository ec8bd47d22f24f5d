"""Readings as a plain table of exact values and texts, and the differences of two such tables."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from curvwatch import Advice, History

# differ from run to run
TIMES = ("curvature/cost_seconds", "curvature/cost_share")
# attributes whose strings are prose; all other strings are a contract and compared with the numbers
_PROSE = {"text", "notes", "sentences", "description", "names", "warnings"}


class Cell(NamedTuple):
    """A value or a text of a run.

    Attributes:
        name: of a metric, or of an attribute of a result.
        at: the step; the flat index of an array; 0 of a single value.
        content: numbers as `float.hex` writes them, other values as `repr` does; of texts the text.
    """

    name: str
    at: int
    content: str


@dataclass
class Record:
    """All that a run left.

    Attributes:
        values: compared bit for bit.
        words: compared as text.
    """

    values: list[Cell] = field(default_factory=list)
    words: list[Cell] = field(default_factory=list)

    def add(self, name: str, value: Any, *, at: int = 0) -> None:
        """Append `value` with all it holds: results, mappings, sequences, arrays and tensors."""
        if isinstance(value, torch.Tensor):
            value = value.detach().numpy()
        if isinstance(value, np.ndarray):
            self.values.append(Cell(f"{name}:type", at, repr((str(value.dtype), value.shape))))
            self.values += [Cell(name, i, _exact(x)) for i, x in enumerate(value.ravel().tolist())]
        elif is_dataclass(value) and not isinstance(value, type):
            for f in fields(value):
                if not f.name.startswith("_"):
                    self.add(f"{name}.{f.name}", getattr(value, f.name), at=at)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                self.add(f"{name}[{key}]", item, at=at)
        elif isinstance(value, str) and _is_prose(name):
            self.words.append(Cell(name, at, value))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            self.values.append(Cell(f"len({name})", at, repr(len(value))))
            for i, item in enumerate(value):
                self.add(f"{name}[{i}]" if is_dataclass(item) else name, item, at=at or i)
        else:
            self.values.append(Cell(name, at, _exact(value)))

    def add_run(
        self,
        history: History,
        advice: Mapping[str, Advice],
        module: nn.Module,
        warnings: Iterable[str] = (),
    ) -> None:
        """Append the readings of a run, what was made of them, and the weights that it left."""
        for name in sorted(history):
            if not name.startswith(TIMES):
                for step, value in zip(*history[name], strict=True):
                    self.add(name, float(value), at=int(step))
        for name, steps in sorted(history.doubtful.items()):
            for step in steps:
                self.values.append(Cell(f"doubt of {name}", step, "True"))
        for name in sorted(history.densities):
            steps, histograms = history.densities[name]
            self.add(f"{name} steps", steps)
            for step, histogram in zip(steps.tolist(), histograms, strict=True):
                self.add(f"{name} at step {step}", histogram)
        for note in history.notes:
            self.values.append(Cell("note", note.step, "True"))
            self.words.append(Cell("note.text", note.step, note.text))
        for alert in history.alerts:
            self.add(f"alert {alert.rule}", alert, at=alert.step)
        for suffix, each in advice.items():
            self.add(f"advice{suffix}", each)
        for text in warnings:
            self.words.append(Cell("warnings", 0, text))
        digest = hashlib.sha256()
        for tensor in module.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        self.values.append(Cell("weights at the end, as SHA-256", 0, digest.hexdigest()))


class Difference(NamedTuple):
    """One cell that is not the same in two records; None where it is missing."""

    run: str
    cell: str
    at: int
    before: str | None
    after: str | None

    def __str__(self) -> str:
        before, after = (_shown(text) for text in (self.before, self.after))
        return f"{self.run}, step {self.at}, {self.cell}: {before} -> {after}"


def differences(
    run: str, before: Iterable[Sequence[Any]], after: Iterable[Sequence[Any]]
) -> Iterator[Difference]:
    """Of the values or of the words of one run."""
    old, new = _numbered(before), _numbered(after)
    for key in [*old, *(key for key in new if key not in old)]:
        if old.get(key) != new.get(key):
            name, at, _ = key
            yield Difference(run, name, at, old.get(key), new.get(key))


def _numbered(cells: Iterable[Sequence[Any]]) -> dict[tuple[str, int, int], str]:
    """By name, step and how often these came before."""
    seen: dict[tuple[str, int], int] = {}
    numbered = {}
    for name, at, content in cells:
        n = seen[name, at] = seen.get((name, at), -1) + 1
        numbered[name, at, n] = content
    return numbered


def _is_prose(name: str) -> bool:
    return name.rpartition(".")[2].partition("[")[0] in _PROSE


def _exact(value: Any) -> str:
    return value.hex() if isinstance(value, float) else repr(value)


def _shown(content: str | None) -> str:
    if content is None:
        return "missing"
    bits = content.removeprefix("-").startswith("0x")
    return f"{float.fromhex(content)!r} ({content})" if bits else content
