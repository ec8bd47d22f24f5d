"""Which charts there are of a run, and how each is read; in the terminal and in the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from curvwatch.compare.run import Curve, LoggedRun
from curvwatch.compare.summary import LOSS, variant_names


class Panel(NamedTuple):
    """What one chart shows.

    Attributes:
        title: short.
        how: one line that says how to read it.
        metrics: its lines; those of which the log has none are left out.
        level: a line across, which the curves are read against.
        log: powers of ten on the axis, where all values are positive.
    """

    title: str
    how: str
    metrics: tuple[str, ...]
    level: float | None = None
    log: bool = False


PANELS = (
    Panel("loss on the probe", "The same batches at every reading: lower is better.", (LOSS,)),
    Panel(
        "stability ratio: 1 is the edge",
        "Effective sharpness over the edge of the run's own optimizer: healthy runs climb to 1 and "
        "hover there; well over 1 the loss is about to spike.",
        ("curvature/stability_ratio",),
        level=1.0,
    ),
    Panel(
        "effective sharpness, and its edge (dots)",
        "A run is stable while its line is below its own dots; a lower edge is a larger learning rate.",
        ("curvature/effective_sharpness", "curvature/effective_edge"),
        log=True,
    ),
    Panel(
        "stability ratio of the step: over 1 it overshoots",
        "The curvature along the step just taken against its slope: at 1 the step no longer lowers the "
        "loss of its batch, above it raises it.",
        ("step/stability_ratio",),
        level=1.0,
    ),
    Panel(
        "directional sharpness of the step",
        "Curvature along each step: lower means that the optimizer moves in flatter directions.",
        ("step/directional_sharpness",),
        log=True,
    ),
    Panel(
        "gradient correlation: below 0 is downhill",
        "Slope of the loss along the unit step: the further below 0, the steeper downhill.",
        ("step/gradient_correlation",),
        level=0.0,
    ),
)


def lines_of(run: LoggedRun, panel: Panel) -> dict[str, Curve]:
    """The curves of `run` that `panel` shows, by name."""
    names = [name for metric in panel.metrics for name in variant_names(run, metric)]
    return {n: run.curves[n] for n in names if np.isfinite(run.curves[n].values).any()}


def panels_of(runs: Sequence[LoggedRun], metrics: Sequence[str] = ()) -> list[Panel]:
    """Those that any of `runs` has values for, `metrics` first.

    Runs without metrics of curvwatch show some of their own.
    """
    known = [panel for panel in PANELS if any(lines_of(run, panel) for run in runs)]
    had = sorted({name for run in runs for name in run.curves})
    wanted = list(metrics) or ([] if known else had[: len(PANELS)])
    named = [Panel(name, "As logged.", (name,)) for name in wanted if name in had]
    shown = [panel for panel in named if (panel.metrics not in [k.metrics for k in known])]
    return [*shown, *known]


def is_logarithmic(panel: Panel, values: np.ndarray) -> bool:
    """Whether all of the finite `values` are shown in powers of ten.

    They are where the panel asks for it, or a run that went astray would press all others flat.
    """
    if not len(values) or values.min() <= 0 or (panel.level is not None and panel.level <= 0):
        return False
    return panel.log or bool(values.max() > 100 * np.median(values))


def is_edge(metric: str) -> bool:
    """Whether its line is one that others are read against."""
    return metric.startswith(("curvature/effective_edge", "curvature/edge"))


def thinned(values: np.ndarray, most: int) -> np.ndarray:
    """Positions, in order, of at most `most` of the (n,) values.

    The smallest and the largest of each stretch are kept, the first and the last, and one that is
    missing in a stretch that has any: peaks and gaps stay.
    """
    count = len(values)
    if count <= most:
        return np.arange(count)
    finite = np.isfinite(values)
    kept = {0, count - 1}
    for stretch in np.array_split(np.arange(count), max(1, (most - 2) // 3)):
        known = stretch[finite[stretch]]
        if len(known):
            kept |= {int(known[values[known].argmin()]), int(known[values[known].argmax()])}
        if len(known) < len(stretch):
            kept.add(int(stretch[~finite[stretch]][0]))
    return np.array(sorted(kept))
