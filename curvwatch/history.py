"""All readings of a run, in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Series(NamedTuple):
    """One metric over a run."""

    steps: np.ndarray  # (n,) int64, the optimizer step of each value
    values: np.ndarray  # (n,) float64, nan where a value could not be had


class Note(NamedTuple):
    """Why values are missing or not to be trusted."""

    step: int
    text: str


class History:
    """The values of every metric, by name.

    Example:
        >>> history = History()
        >>> history.record(0, {"curvature/sharpness": 2.5})
        >>> history["curvature/sharpness"].values
        array([2.5])
    """

    def __init__(self) -> None:
        self._steps: dict[str, list[int]] = {}
        self._values: dict[str, list[float]] = {}
        self.notes: list[Note] = []

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Append `values` read at optimizer step `step`."""
        for name, value in values.items():
            self._steps.setdefault(name, []).append(step)
            self._values.setdefault(name, []).append(float(value))

    def note(self, step: int, text: str) -> None:
        """Keep a remark about the reading at `step`."""
        self.notes.append(Note(step, text))

    def __getitem__(self, name: str) -> Series:
        """Steps and values of the metric `name`.

        Raises:
            KeyError: it was never read; the message names those that were.
        """
        if name not in self._steps:
            known = ", ".join(sorted(self._steps)) or "nothing yet"
            raise KeyError(f"no reading of {name!r}; there are readings of {known}")
        return Series(
            np.asarray(self._steps[name], dtype=np.int64),
            np.asarray(self._values[name], dtype=np.float64),
        )

    def __contains__(self, name: object) -> bool:
        return name in self._steps

    def __iter__(self) -> Iterator[str]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)

    def __repr__(self) -> str:
        readings = max((len(s) for s in self._steps.values()), default=0)
        return f"History({len(self)} metrics, {readings} readings)"

    def latest(self, name: str) -> float:
        """The last value of `name`, nan where there is none."""
        return self._values[name][-1] if self._values.get(name) else math.nan

    def to_dict(self) -> dict[str, dict[str, list[Any]]]:
        """`{name: {"steps": [...], "values": [...]}}`, plain Python."""
        return {
            name: {"steps": list(self._steps[name]), "values": list(self._values[name])}
            for name in self
        }

    def plot(self) -> Figure:
        """Sharpness against its edges, stability ratios and step geometry over the run.

        Raises:
            ImportError: matplotlib is missing; `pip install 'curvwatch[report]'` has it.
        """
        from curvwatch.plots import plot_history

        return plot_history(self)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"series": self.to_dict(), "notes": [tuple(n) for n in self.notes]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._steps = {name: list(s["steps"]) for name, s in state["series"].items()}
        self._values = {name: list(s["values"]) for name, s in state["series"].items()}
        self.notes = [Note(*n) for n in state["notes"]]
