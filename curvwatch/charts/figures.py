"""What all figures share, with matplotlib (the report extra), and what they draw, as Protocols."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from curvwatch.charts.histogram import Histogram

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# a logarithmic axis where values span more than two decades
_DECADES = 100.0


class CurveLike(Protocol):
    """One metric over a run: a `Series` of a history, a `Curve` of a log."""

    @property
    def steps(self) -> np.ndarray:
        """(n,) int64, the optimizer step of each value."""

    @property
    def values(self) -> np.ndarray:
        """(n,) float64."""


class DensityLike(Protocol):
    """A distribution over a run: a `DensitySeries` of a history."""

    @property
    def steps(self) -> np.ndarray:
        """(n,) int64, the optimizer step of each reading."""

    @property
    def histograms(self) -> Sequence[Histogram]:
        """Of each reading."""


class AlertLike(Protocol):
    """An `Alert`."""

    @property
    def rule(self) -> str:
        """The name of its rule."""

    @property
    def step(self) -> int:
        """The optimizer step at which it fired."""


class RunLike(Protocol):
    """Curves by metric, and distributions by name: a `History`."""

    def __getitem__(self, name: str, /) -> CurveLike:
        """The curve of one metric."""

    def __iter__(self) -> Iterator[str]:
        """The names of the metrics."""

    @property
    def densities(self) -> Mapping[str, DensityLike]:
        """Distributions by name."""


def new_figure(size: tuple[float, float], *, layout: Any = "constrained") -> Figure:
    """An empty figure, `size` in inches, that no window shows.

    Args:
        size: width and height.
        layout: the layout engine of matplotlib; None: axes stay where they are placed.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "figures need matplotlib, which is not installed: pip install 'curvwatch[report]'"
        ) from error
    return Figure(figsize=size, layout=layout)


def figure_pixels(figure: Figure) -> np.ndarray:
    """`figure` as pixels, shape (height, width, 3), uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def plain(text: str) -> str:
    """`text` with its dollar signs escaped, which matplotlib would read as formulas."""
    return text.replace("$", r"\$")


def is_logarithmic(values: np.ndarray) -> bool:
    """Whether the finite ones of `values` are positive and span more than two decades."""
    finite = values[np.isfinite(values)]
    return bool(finite.size and finite.min() > 0 and finite.max() > _DECADES * finite.min())
