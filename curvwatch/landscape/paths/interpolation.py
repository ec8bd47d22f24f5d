"""The straight line from one set of weights to another: is the loss monotone on it?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from curvwatch.checks import Mode
from curvwatch.errors import CurvwatchError
from curvwatch.landscape import archive
from curvwatch.landscape.alignment.result import Aligned, end_weights
from curvwatch.landscape.checkpoints import Checkpoint, check_count, vector_of
from curvwatch.landscape.module_surface import ModuleSurface, Subject, surface_of
from curvwatch.landscape.paths.curves import Curve, distance, segment_lengths
from curvwatch.landscape.paths.figures import plot_interpolations
from curvwatch.landscape.paths.gauss_length import GaussLength, gauss_length, outputs_at
from curvwatch.landscape.surface import Surface, progress_bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# of the largest loss, in units of rounding: smaller bumps are taken for rounding
_ROUNDING = 16
_UNKNOWN = GaussLength(math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True, eq=False)
class Interpolation(archive.Archived):
    """Losses at (1 - alpha) a + alpha b.

    Attributes:
        alphas: shape (n,), from 0 to 1 at equal distances.
        losses: shape (n,); inf or nan where the loss is.
        distance: |b - a|.
        tolerance: a bump up to this passes for monotone.
        path_length: of the path of the optimizer: the sum of the distances between successive
            snapshots, a lower bound; nan without snapshots.
        gauss: the Gauss length of the line's curve in the space of outputs, with its error; nan where
            the outputs are not available.
        settings: what `interpolate` was called with, by name.
        notes: limits of the numbers, and why some are missing.
    """

    _WHAT = "interpolation"

    alphas: np.ndarray
    losses: np.ndarray
    distance: float
    tolerance: float
    path_length: float = math.nan
    gauss: GaussLength = _UNKNOWN
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def bump(self) -> float:
        """The largest rise of the loss: the most that L(alpha2) is above L(alpha1), alpha1 < alpha2.

        The smallest Delta for which the line is Delta-monotonic (Lucas et al. 2021); 0 where
        the loss never rises, inf where it is not finite.
        """
        if not np.isfinite(self.losses).all():
            return math.inf
        return float((self.losses - np.minimum.accumulate(self.losses)).max())

    @property
    def monotone(self) -> bool:
        """Whether the loss never rises by more than `tolerance`, as far as the grid shows it."""
        return self.bump <= self.tolerance

    @property
    def resolution(self) -> float:
        """The distance of two alphas: a bump that is narrower may have been missed."""
        return float(np.diff(self.alphas).max())

    def plot(self) -> Figure:
        """The losses over alpha.

        Raises:
            ImportError: matplotlib is missing; `pip install 'curvwatch[report]'` has it.
        """
        return plot_interpolations([self])


def interpolate(
    subject: Subject,
    a: Checkpoint | Aligned,
    b: Checkpoint | Aligned,
    *,
    batches: Iterable[Any] | None = None,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    mode: Mode | None = None,
    points: int = 51,
    snapshots: Mapping[int, Checkpoint] | Sequence[Checkpoint] | None = None,
    outputs: bool | Callable[..., Any] = True,
    tolerance: float | None = None,
    progress: bool = True,
) -> Interpolation:
    """Losses on the straight line from `a` to `b`, and whether they fall everywhere.

    From the initialisation of a run to its end the loss mostly does, "monotonic linear interpolation"
    (Goodfellow et al. 2015; Lucas et al. 2021). Between the ends of two runs the line shows a barrier:
    `path(kind="line")` looks for its top.

    The Gauss length is that of Lucas et al. (2021), on a grid: z(alpha) are the outputs that the loss
    function gets (logits), the steps z(alpha[i+1]) - z(alpha[i]) are its directions, and the length is
    the sum of the angles between successive ones, where they integrate the speed of the unit tangent.
    `gauss.each`, the mean over examples of each one's own, is what their code reports; `gauss.joint` is
    that of the outputs of all examples as one vector. 0 is a network whose outputs move straight. Where
    `joint` is below pi/2, and the squared error to targets that b reaches is the loss, it cannot rise.

    Args:
        subject: a surface, an `Objective`, or a module, as `surface_of` takes them; in eval mode
            outputs are those of eval mode.
        a: the beginning: a flat vector, or a checkpoint that `weights_of` reads.
        b: the end.
        batches: of a module, as in `surface_of`.
        loss_fn: of a module, likewise.
        mode: likewise.
        points: how many losses, at equal distances.
        snapshots: checkpoints in between, in order, such as `Snapshots.paths`, for `path_length`.
        outputs: True: found from the loss function, where it is one of torch's; a function
            `outputs(module, batch)` (of a surface that is no module's: `outputs(w)`) gives them; False:
            no Gauss length. They take a second forward pass at each point.
        tolerance: the loss is monotone if it never rises by more; None: by rounding.
        progress: show a progress bar.

    Raises:
        ValueError: an argument is not what it should be.
        CurvwatchError: a checkpoint does not fit.

    Example:
        >>> surface = FunctionSurface(lambda w: w.square().sum(), torch.zeros(1))
        >>> line = interpolate(surface, torch.tensor([2.0]), torch.tensor([-2.0]), progress=False)
        >>> round(line.bump, 6), line.monotone
        (4.0, False)
    """
    check_count("points", points, at_least=3)
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance!r}: 0 or more, or None for that of rounding, is needed")
    surface = surface_of(subject, batches, loss_fn=loss_fn, mode=mode)
    start, end = end_weights(surface, a), end_weights(surface, b)
    line = Curve.even("chain", torch.stack([start, end]))
    alphas = np.linspace(0.0, 1.0, points)
    with surface.open():
        grid = progress_bar(alphas.tolist(), "losses on the line", progress=progress)
        losses = np.array([surface.loss(line.at(t)) for t in grid])
    notes: list[str] = []
    if tolerance is None:
        finite = losses[np.isfinite(losses)]
        largest = float(np.abs(finite).max()) if len(finite) else 0.0
        tolerance = _ROUNDING * _eps(surface) * largest
    if not np.isfinite(losses).all():
        count = int((~np.isfinite(losses)).sum())
        notes.append(f"{count} of {points} losses are not finite: the bump is inf")
    path_length = math.nan
    if snapshots is not None:
        path_length = _path_length(surface, snapshots, start, end, notes)
    gauss = _UNKNOWN
    if outputs is not False:
        made = _outputs(surface, line, alphas, outputs, progress)
        try:
            gauss = gauss_length(made, eps=_eps(surface))
        except CurvwatchError as error:
            notes.append(f"no Gauss length: {error}")
    return Interpolation(
        alphas=alphas,
        losses=losses,
        distance=distance(start, end),
        tolerance=tolerance,
        path_length=path_length,
        gauss=gauss,
        settings={"points": points},
        notes=tuple(notes),
    )


def _eps(surface: Surface) -> float:
    """Rounding of the precision that the loss is computed in."""
    if isinstance(surface, ModuleSurface):
        return max(torch.finfo(dtype).eps for dtype in surface.objective.layout.dtypes)
    return torch.finfo(surface.dtype).eps


def _path_length(
    surface: Surface,
    snapshots: Mapping[int, Checkpoint] | Sequence[Checkpoint],
    start: Tensor,
    end: Tensor,
    notes: list[str],
) -> float:
    """The length of the path through `snapshots`."""
    each = list(snapshots.values()) if isinstance(snapshots, Mapping) else list(snapshots)
    if len(each) < 2:
        notes.append(f"no path length: {len(each)} snapshots, and two at least are needed")
        return math.nan
    total = 0.0
    first = before = vector_of(each[0], surface, evaluated=False)
    for checkpoint in each[1:]:
        w = vector_of(checkpoint, surface, evaluated=False)
        total += segment_lengths([before, w])[0]
        before = w
    # what is half as precise lies a little aside
    near = 1e-2 * distance(start, end)
    if distance(first, start) > near or distance(before, end) > near:
        notes.append("the snapshots do not lead from a to b: the first or the last is another point")
    return total


def _outputs(
    surface: Surface,
    line: Curve,
    alphas: np.ndarray,
    outputs: bool | Callable[..., Any],
    show: bool,
) -> Iterator[Tensor]:
    given = outputs if callable(outputs) else None
    for t in progress_bar(alphas.tolist(), "outputs on the line", progress=show):
        z = outputs_at(surface, line.at(t), given)
        if not bool(z.isfinite().all()):
            raise CurvwatchError(f"at alpha = {t:.3g} an output is not finite")
        yield z
