"""What the docstring of a measure says: its metrics, its price, its source."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

from curvwatch.measures.base import Measure


@dataclass(frozen=True)
class MeasureDescription:
    """A measure in words.

    Attributes:
        name: how it is asked for.
        what: one sentence.
        metrics: names and meanings, a row of its table each.
        price: in gradients and Hessian-vector products.
        source: papers.
    """

    name: str
    what: str
    metrics: tuple[tuple[str, str], ...]
    price: str
    source: str


def describe(measure: type[Measure]) -> MeasureDescription:
    """What the docstring of `measure` says; empty where it says nothing, or docstrings are stripped."""
    paragraphs = [" ".join(p.split()) for p in (inspect.getdoc(measure) or "").split("\n\n")]
    rows = [
        line.strip().strip("|").partition(" | ")
        for line in (inspect.getdoc(measure) or "").splitlines()
        if line.startswith("| `")
    ]
    return MeasureDescription(
        name=measure.name,
        what=paragraphs[0],
        metrics=tuple((_plain(name), _plain(meaning)) for name, _, meaning in rows),
        price=_paragraph_after(paragraphs, "Price: "),
        source=_paragraph_after(paragraphs, "Source: ", "Sources: "),
    )


def _paragraph_after(paragraphs: list[str], *beginnings: str) -> str:
    for paragraph in paragraphs:
        for begins in beginnings:
            if paragraph.startswith(begins):
                return _plain(paragraph.removeprefix(begins))
    return ""


def _plain(text: str) -> str:
    return re.sub(r"`+", "", text).strip()
