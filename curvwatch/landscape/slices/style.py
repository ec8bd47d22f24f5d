"""What figures of slices share (the report extra): what they draw, colours, titles and notes."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from curvwatch.charts.figures import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "0.35"  # distinct with any colour vision
HATCH = "////"
# the marker of the start of a plane
START: dict[str, Any] = {"color": "white", "markeredgecolor": "black"}


class SliceLike(Protocol):
    """A slice of one or two dimensions: a `Slice1D` or a `Slice2D`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the directions."""

    @property
    def norms(self) -> np.ndarray:
        """(k,) lengths of the directions."""

    @property
    def description(self) -> str:
        """What the directions are, in a line."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know besides."""

    @property
    def alphas(self) -> np.ndarray:
        """(n,) coordinates along the first direction."""

    @property
    def losses(self) -> np.ndarray:
        """(n,) of a line, (n, m) of a plane."""

    @property
    def start_loss(self) -> float:
        """The loss where all coordinates are 0."""

    @property
    def coordinates(self) -> np.ndarray:
        """(p, k) of the points that are shown."""

    @property
    def point_losses(self) -> np.ndarray:
        """(p,) their losses."""

    @property
    def off_slice(self) -> np.ndarray:
        """(p,) their distances from the slice."""

    @property
    def point_names(self) -> tuple[str, ...]:
        """Their names."""

    @property
    def path(self) -> bool:
        """Whether the points follow one another."""


class PlaneLike(SliceLike, Protocol):
    """A `Slice2D`."""

    @property
    def betas(self) -> np.ndarray:
        """(m,) coordinates along the second direction."""


def labelled_points(plane: PlaneLike) -> list[int]:
    """Which points get a label: all of a few, and the ends of a path."""
    count = len(plane.coordinates)
    return [0, count - 1] if plane.path else list(range(count))


def point_text(plane: PlaneLike, index: int) -> str:
    """Name and loss of a point."""
    return f"{plain(plane.point_names[index])}\n{plane.point_losses[index]:.4g}"


def outline() -> list[Any]:
    """The effect that keeps lines and words readable on any colour."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.5, foreground="white")]


def finish(
    figure: Figure, axes: Any, shown: SliceLike, *, legend_inside: bool, notes: Sequence[str] = ()
) -> None:
    """Write title, legend and notes.

    Args:
        figure: of `axes`.
        axes: flat, or in three dimensions.
        shown: the slice.
        legend_inside: whether the legend is in the axes; else it is above them, as in a plane every
            place shows a loss.
        notes: further ones than those of the slice.
    """
    from matplotlib.patches import Patch

    axes.set_title(plain(fill(shown.description, 60)), fontsize="medium")
    handles, labels = axes.get_legend_handles_labels()
    holes, size = int((~np.isfinite(shown.losses)).sum()), shown.losses.size
    in_space = axes.name == "3d"
    if holes and not in_space:
        handles.append(Patch(facecolor="white", edgecolor="0.7", hatch=HATCH))
        labels.append(f"nan or inf, {holes} of {size} points")
    if handles and legend_inside:
        axes.legend(handles, labels, fontsize="small")
    elif handles:
        figure.legend(handles, labels, fontsize="small", loc="upper left", ncols=3, frameon=False)
    texts = list(shown.notes)
    if holes and in_space:  # where nothing is drawn, nothing can be hatched
        texts.append(f"the surface has holes where the loss is nan or inf, {holes} of {size} points")
    off = shown.off_slice
    if len(off) and off.max() > 1e-3 * max(np.abs(shown.coordinates).max(), 1e-30):
        where = "they are drawn at their own losses" if in_space else "losses beside them are their own"
        texts.append(f"the points lie {off.min():.3g} to {off.max():.3g} away from this plane; {where}")
    texts += notes
    if texts:
        text = "\n".join(fill(note, 100) for note in texts)
        figure.supxlabel(plain(text), fontsize="x-small", color=GREY)
