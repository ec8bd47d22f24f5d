"""What a finding is: a claim with its source, a run that tests it, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from rich.progress import Progress

# what a run found: plain Python that JSON can hold
Results = dict[str, Any]


@dataclass(frozen=True)
class Check:
    """One statement of a claim, held against the results.

    Attributes:
        claim: what the literature says, as a sentence.
        found: the number that was found, in words.
        holds: whether it agrees.
        expected: whether it did when the words of its page were written.
    """

    claim: str
    found: str
    holds: bool
    expected: bool = True


@dataclass(frozen=True)
class Made:
    """How results came about.

    Attributes:
        seconds: that their run took.
        machine: that it ran on, and the versions.
    """

    seconds: float
    machine: str


@dataclass(frozen=True)
class Finding:
    """One page of the gallery.

    Attributes:
        name: of its files and its command.
        title: of the page.
        claim: what the literature says; Markdown.
        source: the papers.
        setting: what is run; Markdown.
        run: trains and measures; under ten minutes on two cores.
        draw: the picture of results.
        checks: the statements of the claim, held against results.
        reading: how to read the picture, and what does not agree or cannot be decided, with the numbers
            of the results; Markdown.
        alt: what the picture shows, for those who cannot see it.
    """

    name: str
    title: str
    claim: str
    source: str
    setting: str
    run: Callable[[Progress], Results]
    draw: Callable[[Results], Figure]
    checks: Callable[[Results], Sequence[Check]]
    reading: Callable[[Results], str]
    alt: str
