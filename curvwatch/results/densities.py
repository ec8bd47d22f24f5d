"""Distributions over a run, such as the spectral density, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from curvwatch.charts.histogram import Histogram

# at most MOST readings of a distribution are kept, and NUMBERS numbers (8 bytes each) of all of them;
# with many layers each keeps fewer readings, but at least FEWEST, enough for a heat map
MOST, FEWEST, NUMBERS = 200, 20, 1 << 20


class DensitySeries(NamedTuple):
    """One distribution over a run.

    Attributes:
        steps: (n,) int64, the optimizer step of each reading.
        histograms: n, as they were read; each may have bins of its own.
    """

    steps: np.ndarray
    histograms: tuple[Histogram, ...]


@dataclass
class _Kept:
    """Every `stride`-th reading, and the newest one, which may lie off this grid."""

    stride: int = 1
    seen: int = 0
    steps: list[int] = field(default_factory=list)
    histograms: list[Histogram] = field(default_factory=list)

    def add(self, step: int, histogram: Histogram) -> None:
        if self.seen and (self.seen - 1) % self.stride:
            self.steps.pop()
            self.histograms.pop()
        self.seen += 1
        self.steps.append(step)
        self.histograms.append(histogram)

    def thin(self, most: int) -> None:
        """Drop every second reading until there are no more than `most`, the newest stays."""
        while len(self.steps) > most:
            newest = self.steps[-1], self.histograms[-1]
            on_grid = (self.seen - 1) // self.stride + 1
            self.steps, self.histograms = self.steps[:on_grid:2], self.histograms[:on_grid:2]
            self.stride *= 2
            if (self.seen - 1) % self.stride:
                self.steps.append(newest[0])
                self.histograms.append(newest[1])


class Densities(Mapping[str, DensitySeries]):
    """The distributions of a run, by name.

    Of each at most `MOST` readings are kept: when there are more, every second one is dropped, and
    from then on only every second reading is kept, so that they stay evenly spaced. The newest is
    always kept.

    Example:
        >>> densities = Densities()
        >>> halves = Histogram(np.arange(3.0), np.array([0.5, 0.5]))
        >>> densities.record(0, {"curvature/density": halves})
        >>> densities["curvature/density"].steps
        array([0])
    """

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}

    def record(self, step: int, histograms: Mapping[str, Histogram]) -> None:
        """Append `histograms` read at optimizer step `step`; those that are not finite are left out."""
        for name, histogram in histograms.items():
            # copies: a measure may use its arrays again
            edges, weights = (
                np.array(a, dtype=np.float64) for a in (histogram.edges, histogram.weights)
            )
            if np.isfinite(edges).all() and np.isfinite(weights).all():
                self._kept.setdefault(name, _Kept()).add(step, Histogram(edges, weights))
        a_reading = sum(2 * len(k.histograms[-1].weights) + 1 for k in self._kept.values())
        most = max(FEWEST, min(MOST, NUMBERS // max(1, a_reading)))
        for kept in self._kept.values():
            kept.thin(most)

    def __getitem__(self, name: str) -> DensitySeries:
        """The readings of the distribution `name`.

        Raises:
            KeyError: it was never read; the message names those that were.
        """
        if name not in self._kept:
            known = ", ".join(sorted(self._kept)) or "nothing yet"
            raise KeyError(f"no distribution {name!r} was read; there are readings of {known}")
        kept = self._kept[name]
        return DensitySeries(np.asarray(kept.steps, dtype=np.int64), tuple(kept.histograms))

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __repr__(self) -> str:
        readings = max((len(k.steps) for k in self._kept.values()), default=0)
        return f"Densities({len(self)} distributions, {readings} readings)"

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """`{name: {"steps", "edges": [[...]...], "weights": [[...]...], "stride", "seen"}}`.

        Of evenly spaced edges only the first and the last are stored, if all follow from them bit for
        bit.
        """
        return {
            name: {
                "steps": list(kept.steps),
                "edges": [_ends(h.edges).tolist() for h in kept.histograms],
                "weights": [h.weights.tolist() for h in kept.histograms],
                "stride": kept.stride,
                "seen": kept.seen,
            }
            for name, kept in self._kept.items()
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Mapping[str, Any]]) -> Densities:
        """From the result of `to_dict`.

        Raises:
            ValueError: values do not fit each other.
            KeyError: an entry is missing.
            TypeError: an entry has a wrong type.
        """
        densities = cls()
        for name, of in content.items():
            histograms = [
                Histogram(_whole(edges, len(weights)), np.asarray(weights, dtype=np.float64))
                for edges, weights in zip(of["edges"], of["weights"], strict=True)
            ]
            if not len(of["steps"]) == len(histograms) > 0:
                raise ValueError(f"{name!r} has unequal numbers of steps and histograms")
            steps = [int(step) for step in of["steps"]]
            densities._kept[name] = _Kept(int(of["stride"]), int(of["seen"]), steps, histograms)
        return densities

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: as `to_dict`, edges and weights one behind the other in a tensor each."""
        return {
            name: {
                "steps": list(kept.steps),
                "stride": kept.stride,
                "seen": kept.seen,
                "sizes": [len(h.weights) for h in kept.histograms],
                "edges": torch.from_numpy(np.concatenate([h.edges for h in kept.histograms])),
                "weights": torch.from_numpy(np.concatenate([h.weights for h in kept.histograms])),
            }
            for name, kept in self._kept.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        whole = {
            name: {
                **of,
                "edges": of["edges"].split([size + 1 for size in of["sizes"]]),
                "weights": of["weights"].split(of["sizes"]),
            }
            for name, of in state.items()
        }
        self._kept = Densities.from_dict(whole)._kept


def _ends(edges: np.ndarray) -> np.ndarray:
    """`edges`, or the first and the last, where these reproduce all."""
    return edges[[0, -1]] if np.array_equal(_whole(edges[[0, -1]], len(edges) - 1), edges) else edges


def _whole(edges: Sequence[float] | np.ndarray, bins: int) -> np.ndarray:
    """All bins + 1 edges, from `_ends` of them."""
    given = np.asarray(edges, dtype=np.float64)
    return np.linspace(given[0], given[1], bins + 1) if len(given) == 2 else given
