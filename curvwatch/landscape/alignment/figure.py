"""The figure of an aligned network (the report extra)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from curvwatch.charts.figures import new_figure, plain
from curvwatch.landscape.alignment.matching import moved_units

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLUE = "#0072B2"
# inches to a bar, and for what is around them
_BAR, _AROUND = 0.3, 1.4
_TALLEST = 40.0


class AlignedLike(Protocol):
    """An `Aligned`."""

    @property
    def permutations(self) -> Mapping[str, np.ndarray]:
        """Of each permutation, which unit came to each place."""

    @property
    def distances_before(self) -> Mapping[str, float]:
        """|b - a| of each tensor before."""

    @property
    def distances(self) -> Mapping[str, float]:
        """The same afterwards."""

    @property
    def distance_before(self) -> float:
        """|b - a| of all of them before."""

    @property
    def distance(self) -> float:
        """The same afterwards."""


def plot_aligned(aligned: AlignedLike) -> Figure:
    """Bars: each layer's distance before and after; the share of each permutation's units that moved.

    Raises:
        ImportError: matplotlib is missing; `pip install 'curvwatch[report]'` has it.
    """
    before, after = (_by_layer(d) for d in (aligned.distances_before, aligned.distances))
    moved = {p: moved_units(order) for p, order in aligned.permutations.items()}
    bars = max(len(before), len(moved))
    height = min(max(3.0, _BAR * bars + _AROUND), _TALLEST)
    figure = new_figure((10.0, height))
    left, right = figure.subplots(ncols=2)
    _bars(left, list(before), list(before.values()), "0.8", 0.8, "before")
    _bars(left, list(after), list(after.values()), _BLUE, 0.45, "after")
    left.set_xlabel("distance |b - a| of the layer's weights")
    left.set_title(
        f"distance {aligned.distance_before:.4g}, then {aligned.distance:.4g}", fontsize="medium"
    )
    left.legend(fontsize="small")
    sizes = [len(order) for order in aligned.permutations.values()]
    shares = [count / size for count, size in zip(moved.values(), sizes, strict=True)]
    _bars(right, list(moved), shares, _BLUE, 0.6, "moved")
    for i, (count, size) in enumerate(zip(moved.values(), sizes, strict=True)):
        right.annotate(
            f"{count} of {size}",
            (0, i),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
            bbox={
                "boxstyle": "round,pad=0.15",
                "facecolor": "white",
                "edgecolor": "none",
                "alpha": 0.8,
            },
        )
    right.set_xlim(0, 1)
    right.set_xlabel("share of the units that moved")
    right.set_title("permutations", fontsize="medium")
    return figure


def _by_layer(distances: Mapping[str, float]) -> dict[str, float]:
    """Of a layer's tensors together."""
    of: dict[str, list[float]] = defaultdict(list)
    for name, each in distances.items():
        of[name.rpartition(".")[0] or name].append(each)
    return {layer: math.hypot(*each) for layer, each in of.items()}


def _bars(
    axes: Any, names: Sequence[str], lengths: Sequence[float], color: str, width: float, label: str
) -> None:
    """The first name on top."""
    places = range(len(names))
    axes.barh(places, lengths, height=width, color=color, label=label)
    axes.set_yticks(places, [plain(name) for name in names], fontsize="small")
    axes.set_ylim(len(names) - 0.5, -0.5)
