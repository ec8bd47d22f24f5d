"""Heat maps over time, as numbers: of a distribution, and of one metric of all layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from curvwatch.charts.histogram import Histogram

Scale = Literal["linear", "log", "asinh"]

# an axis turns to powers of ten where its end is so many times further off than this share of the mass
_FAR, _BULK = 10.0, 0.9
# colours: below the lowest peak of a density by this factor there is nothing but the tails of the
# Gaussians that it is made of; and never lower than, never higher than, relative to the largest
_BELOW_PEAKS, _LOWEST, _HIGHEST = 3.0, 1e-10, 1e-3
_MOST_TICKS = 11
# values of layers: powers of ten from this ratio of the largest to the smallest, or to the median
_DECADES, _ASTRAY = 30.0, 100.0


@dataclass(frozen=True)
class HeatMap:
    """Values by reading and by a second axis.

    Attributes:
        columns: (c,) int64, which of the readings each column is.
        cells: (rows, c) float64; nan where there is nothing.
        edges: (rows + 1,) float64, rising: of the rows; of layers 0, 1, 2, ...
        names: of the rows, where these are layers; () where they are values.
        linear: rows of values closer to 0 than this are evenly wide, others in powers of ten; None:
            all are evenly wide.
        scale: of the colours.
        low: value of the first colour.
        high: value of the last one, never below `low`.
        middle: of scale "asinh": values closer to 0 are evenly spaced.
    """

    columns: np.ndarray
    cells: np.ndarray
    edges: np.ndarray
    names: tuple[str, ...] = ()
    linear: float | None = None
    scale: Scale = "linear"
    low: float = 0.0
    high: float = 1.0
    middle: float = 1.0

    @property
    def is_signed(self) -> bool:
        """Whether colours have two sides, of values below and above 0."""
        return self.low < 0.0 < self.high

    @property
    def shades(self) -> np.ndarray:
        """(rows, c) float64, the colour of each cell from 0 to 1; nan where there is nothing."""
        low, high = (
            self._to_scale(np.asarray(self.low)),
            self._to_scale(np.asarray(self.high)),
        )
        if not high > low:
            return np.where(np.isnan(self.cells), math.nan, 0.5)
        shades: np.ndarray = ((self._to_scale(self.cells) - low) / (high - low)).clip(0.0, 1.0)
        return shades

    def value_of(self, shade: float) -> float:
        """What the colour `shade` stands for."""
        low, high = (float(self._to_scale(np.asarray(end))) for end in (self.low, self.high))
        at = low + shade * (high - low)
        if self.scale == "log":
            return 10**at
        return self.middle * math.sinh(at) if self.scale == "asinh" else at

    def _to_scale(self, values: np.ndarray) -> Any:
        if self.scale == "asinh":
            return np.arcsinh(values / self.middle)
        if self.scale == "log":
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.log10(values)
        return values

    def height_of(self, value: float) -> float:
        """Where `value` lies on the second axis, from 0 at the lower end to 1 at the upper one."""
        low, high = _to_axis(self.edges[[0, -1]], self.linear)
        return float((_to_axis(np.asarray(value), self.linear) - low) / (high - low))

    @property
    def ticks(self) -> list[float]:
        """Values to write beside the second axis: 0, and powers of ten or even steps."""
        low, high = float(self.edges[0]), float(self.edges[-1])
        if self.linear is None:
            step = _nice((high - low) / 4)
            return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
        top = max(abs(low), abs(high))
        powers = range(math.floor(math.log10(self.linear)), math.ceil(math.log10(top)) + 1)
        for factors in ((1, 2, 5), (1, 3), (1,)):
            sizes = [f * 10.0**p for p in powers for f in factors if f * 10.0**p > 0.5 * self.linear]
            values = [*(-size for size in reversed(sizes)), 0.0, *sizes]
            shown = [value for value in values if low <= value <= high]
            if len(shown) <= _MOST_TICKS:
                return shown
        return shown[:: -(-len(shown) // _MOST_TICKS)]


@dataclass(frozen=True)
class DensityAxes:
    """Axis and colours of the heat map of a density, or of several that are to be compared.

    Attributes:
        low: lower end of the axis.
        high: upper end of the axis.
        linear: as of `HeatMap`.
        floor: the least density that has a colour.
        top: the largest density.
    """

    low: float
    high: float
    linear: float | None
    floor: float
    top: float

    @classmethod
    def of(cls, histograms: Sequence[Histogram]) -> DensityAxes:
        """Those on which all of `histograms` can be seen.

        Raises:
            ValueError: there is none.
        """
        if not histograms:
            raise ValueError("a heat map needs at least one reading")
        low = min(float(h.edges[0]) for h in histograms)
        high = max(float(h.edges[-1]) for h in histograms)
        bulk = float(np.median([_bulk(h) for h in histograms]))
        top = max(float((h.weights / np.diff(h.edges)).max()) for h in histograms)
        floor = np.clip(_lowest_peak(histograms) / _BELOW_PEAKS, _LOWEST * top, _HIGHEST * top)
        linear = bulk if max(-low, high) > _FAR * bulk > 0 else None
        return cls(low, high, linear, float(floor), top)


def density_map(
    histograms: Sequence[Histogram], *, rows: int, columns: int, axes: DensityAxes | None = None
) -> HeatMap:
    """A distribution over its readings: cells are mass per unit of value, colours in powers of ten.

    A row inside a bin has the density of the bin, and a row that meets several the largest of theirs:
    the mean would hide an outlier in a wide row. Rows with next to nothing are left empty.

    Args:
        histograms: of each reading, in order; bins may differ.
        rows: how many there are.
        columns: the most there are; of more readings some are taken, the first and the last among them.
        axes: None: those of these histograms alone.

    Raises:
        ValueError: there is no reading.
    """
    axes = axes or DensityAxes.of(histograms)
    picked = evenly_spaced(len(histograms), columns)
    ends = _to_axis(np.array([axes.low, axes.high]), axes.linear)
    edges = _from_axis(np.linspace(ends[0], ends[1], rows + 1), axes.linear)
    edges[[0, -1]] = axes.low, axes.high
    cells = np.stack([_highest(histograms[i], edges) for i in picked], axis=1)
    cells[(cells < axes.floor) | (cells <= 0.0)] = math.nan
    # a density without any mass has no colour
    low, high = (axes.floor, axes.top) if axes.top > 0 else (1.0, 1.0)
    return HeatMap(picked, cells, edges, (), axes.linear, "log", low, high)


def layer_map(values: Mapping[str, np.ndarray], *, rows: int, columns: int) -> HeatMap:
    """One metric of all layers over its readings, the first layer at the top.

    Args:
        values: (n,) of each layer, in order; nan where a value is missing.
        rows: the most there are; of more layers some are taken, the first and the last among them.
        columns: the most there are, likewise.

    Raises:
        ValueError: there is no layer, no reading, or layers have unlike numbers of readings.
    """
    counts = {len(of) for of in values.values()}
    if len(counts) != 1 or counts == {0}:
        raise ValueError(
            f"{len(values)} layers with {sorted(counts)} readings: as many of each are needed"
        )
    names = list(values)
    layers = evenly_spaced(len(names), rows)
    picked = evenly_spaced(counts.pop(), columns)
    names = [names[i] for i in reversed(layers)]
    cells = np.stack([np.asarray(values[name], dtype=np.float64)[picked] for name in names])
    cells[~np.isfinite(cells)] = math.nan
    return HeatMap(picked, cells, np.arange(len(names) + 1.0), tuple(names), None, *_colours(cells))


def aligned(
    series: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The steps of all `series`, (n,) int64, and the values of each at these, (n,); nan: it has none.

    Args:
        series: steps and values by name; of a step that comes twice the last value counts.
    """
    steps = np.unique(np.concatenate([at for at, _ in series.values()]))
    values = {name: np.full(len(steps), math.nan) for name in series}
    for name, (at, of) in series.items():
        values[name][np.searchsorted(steps, at)] = of
    return steps, values


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """(m,) int64, at most `most` of `count` positions, evenly spaced, with the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def column_edges(places: np.ndarray) -> np.ndarray:
    """(c + 1,) where columns that lie at the (c,) `places` begin and end: half-way between two."""
    if len(places) == 1:
        return np.array([places[0] - 0.5, places[0] + 0.5])
    between = (places[1:] + places[:-1]) / 2
    return np.concatenate([[2 * places[0] - between[0]], between, [2 * places[-1] - between[-1]]])


def _highest(histogram: Histogram, edges: np.ndarray) -> np.ndarray:
    """(rows,) the largest mass per unit of value between two of `edges`; 0 beyond the bins."""
    density = histogram.weights / np.diff(histogram.edges)
    first = np.searchsorted(histogram.edges, edges[:-1], side="right") - 1
    last = np.searchsorted(histogram.edges, edges[1:], side="left") - 1
    meets = (last >= 0) & (first < len(density))
    first, last = first.clip(0, len(density) - 1), last.clip(0, len(density) - 1)
    # reduceat takes every second stretch, from a first bin to behind a last one
    ends = np.stack([first, np.maximum(first, last) + 1], axis=1).ravel()
    found: np.ndarray = np.maximum.reduceat(np.append(density, 0.0), ends)[::2]
    return np.where(meets, found, 0.0)


def _bulk(histogram: Histogram) -> float:
    """The size that a share of `_BULK` of the mass does not exceed."""
    sizes = np.maximum(np.abs(histogram.edges[1:]), np.abs(histogram.edges[:-1]))
    order = np.argsort(sizes)
    mass = np.cumsum(histogram.weights[order])
    return float(sizes[order][np.searchsorted(mass, _BULK * mass[-1])])


def _lowest_peak(histograms: Sequence[Histogram]) -> float:
    """The density at the lowest of all local maxima; those that are rounding do not count."""
    lowest = math.inf
    for histogram in histograms:
        density = np.concatenate([[0.0], histogram.weights / np.diff(histogram.edges), [0.0]])
        inner = density[1:-1]
        peaks = inner[
            (inner > density[:-2]) & (inner >= density[2:]) & (inner > _LOWEST * density.max())
        ]
        lowest = min(lowest, float(peaks.min(initial=math.inf)))
    return lowest


def _colours(cells: np.ndarray) -> tuple[Scale, float, float, float]:
    """Scale, ends and middle of the colours of `cells`, so that a few values do not hide the rest."""
    known = cells[~np.isnan(cells)]
    if not len(known):
        return "linear", 0.0, 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    if low > 0 and high > _DECADES * low:
        return "log", low, high, 1.0
    if low < 0 < high:  # 0 has the colour in the middle
        low, high = min(low, -high), max(high, -low)
    middle = float(np.median(np.abs(known)))
    if middle > 0 and max(-low, high) > _ASTRAY * middle:
        return "asinh", low, high, middle
    return "linear", low, high, 1.0


def _to_axis(values: np.ndarray, linear: float | None) -> np.ndarray:
    return values if linear is None else np.arcsinh(values / linear)


def _from_axis(heights: np.ndarray, linear: float | None) -> np.ndarray:
    return heights if linear is None else linear * np.sinh(heights)


def _nice(step: float) -> float:
    """1, 2 or 5 times a power of ten, near `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return power * min((1, 2, 5, 10), key=lambda factor: abs(factor - step / power))
