"""Paths between two minima: straight, trained or relaxed, and the barrier on each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from curvwatch.checks import Mode, check_choice
from curvwatch.errors import CurvwatchError
from curvwatch.landscape.alignment.result import Aligned, end_weights
from curvwatch.landscape.checkpoints import Checkpoint, check_count, check_positive
from curvwatch.landscape.module_surface import Subject, surface_of
from curvwatch.landscape.paths.band import relax_band
from curvwatch.landscape.paths.curves import Curve, between
from curvwatch.landscape.paths.fitting import DEFAULT_RATES, BatchDraws, fit_curve
from curvwatch.landscape.paths.profile import profile
from curvwatch.landscape.paths.results import Kind, Path
from curvwatch.landscape.surface import Surface, progress_bar

# what `path` takes for each kind, and its defaults
_TRAINED = {
    "steps": 200,
    "bends": 1,
    "optimizer": "adam",
    "learning_rate": None,
    "draws": 2,
    "batches_per_step": None,
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "line": {},
    "bezier": _TRAINED,
    "chain": _TRAINED,
    "band": {
        "steps": 100,
        "pivots": 7,
        "spring": None,
        "inserts": 0,
        "climb": True,
        "tolerance": 0.01,
    },
}
# of the points between the ends, relative to their distance
_JITTER = 1e-3


def path(
    subject: Subject,
    a: Checkpoint | Aligned,
    b: Checkpoint | Aligned,
    *,
    batches: Iterable[Any] | None = None,
    loss_fn: Callable[[Any, Any], Any] | None = None,
    mode: Mode | None = None,
    kind: Kind = "line",
    points: int = 31,
    refine: int = 16,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> Path:
    """A path from `a` to `b`, and the losses on it.

    - "line": straight, without options.
    - "bezier" and "chain": a Bezier curve or a polygonal chain whose bends are trained, so that the
      mean of the loss over it is low (Garipov et al. 2018). `bends=1`: how many;
      `steps=200`; `draws=2`: places on the curve that a step evaluates, a gradient each;
      `optimizer="adam"` or "sgd" (momentum .9); `learning_rate`, by default 0.01 and 0.1;
      `batches_per_step=None`: a step uses so many of the surface's batches, None: all.
    - "band": a nudged elastic band (Jonsson et al. 1998; Draxler et al. 2018), which finds a path over
      the lowest pass nearby. `pivots=7`: how many; `steps=100`, a gradient for each pivot, at most;
      `inserts=0`: so many times, pivots are added where the loss between two rises; `climb=True`: the
      highest pivot climbs onto the saddle; `spring=None`: the stiffness, in loss / weight^2, by
      default as strong as the first forces; `tolerance=0.01`: it is at rest where forces are down to
      this part of the first ones.

    The ends stay as they are. No path is lower than the lowest pass between the ends, so every barrier
    is an upper bound of that pass, as far as the grid has seen the path's highest loss.

    Args:
        subject: a surface, an `Objective`, or a module, as `surface_of` takes them.
        a: the beginning: a flat vector, or a checkpoint that `weights_of` reads.
        b: the end; what `align` returned, for a path to the permuted network.
        batches: of a module, as in `surface_of`.
        loss_fn: of a module, likewise.
        mode: likewise.
        kind: of path.
        points: losses on a grid of so many t, and next to the ends; of a chain and a band at its
            control points, too.
        refine: at most so many further losses, half of them around all tops that the grid has seen, the
            others around the highest.
        seed: of all random numbers.
        progress: show a progress bar.
        **options: those of the kind, see above.

    Raises:
        ValueError: an argument is not what it should be.
        CurvwatchError: the loss is not finite at an end, or everywhere that a curve was trained.

    Example:
        >>> surface = FunctionSurface(lambda w: (w**2 - 1).square().sum(), torch.zeros(1))
        >>> path(surface, torch.tensor([-1.0]), torch.tensor([1.0]), progress=False).barrier
        1.0
    """
    check_choice("kind", kind, get_args(Kind))
    chosen = _checked_options(kind, options)
    check_count("points", points, at_least=3)
    check_count("refine", refine, at_least=0)
    surface = surface_of(subject, batches, loss_fn=loss_fn, mode=mode)
    ends = end_weights(surface, a), end_weights(surface, b)
    before = surface.counts.gradients, surface.counts.forwards
    _check_ends(surface, ends)
    if kind != "line" and torch.equal(*ends):
        raise ValueError(f"both ends are the same weights: there is nothing to find for kind={kind!r}")
    found = _search(surface, ends, kind, chosen, seed=seed, progress=progress)
    curve, notes = found.curve, list(found.notes)
    t, losses = _profile(surface, curve, points, refine, show=progress)
    if not np.isfinite(losses).all():
        count = int((~np.isfinite(losses)).sum())
        notes.append(f"{count} of {len(losses)} losses on the path are not finite: the barrier is inf")
    return Path(
        kind=kind,
        t=t,
        losses=losses,
        length=curve.length,
        controls=curve.controls.cpu().numpy(),
        knots=curve.knots.numpy(),
        training=np.array(found.training),
        gradients=surface.counts.gradients - before[0] + found.gradients,
        forwards=surface.counts.forwards - before[1] + found.forwards,
        force=found.force,
        settings={"points": points, "refine": refine, "seed": seed, **chosen},
        notes=tuple(notes),
    )


@dataclass(frozen=True, eq=False)
class _SearchResult:
    """A curve and what the search for it left; gradients and forwards of drawn batches alone."""

    curve: Curve
    training: list[float] = field(default_factory=list)
    force: float = math.nan
    gradients: float = 0.0
    forwards: float = 0.0
    notes: tuple[str, ...] = ()


def _search(
    surface: Surface,
    ends: tuple[Tensor, Tensor],
    kind: Kind,
    chosen: Mapping[str, Any],
    *,
    seed: int,
    progress: bool,
) -> _SearchResult:
    if kind == "line":
        return _SearchResult(Curve.even("chain", torch.stack(ends)))
    steps = progress_bar(range(chosen["steps"]), f"{kind}: steps", progress=progress)
    if kind == "band":
        return _search_band(surface, ends, chosen, steps, seed)
    return _train_curve(surface, ends, kind, chosen, steps, seed)


def _search_band(
    surface: Surface,
    ends: tuple[Tensor, Tensor],
    chosen: Mapping[str, Any],
    steps: Iterable[int],
    seed: int,
) -> _SearchResult:
    with surface.open():
        band = relax_band(
            surface,
            between(*ends, chosen["pivots"], seed=seed, jitter=_JITTER),
            steps,
            count=chosen["steps"],
            **{name: chosen[name] for name in ("spring", "inserts", "climb", "tolerance")},
        )
    note = (
        f"the band has not converged: after {len(band.history)} steps the largest force is "
        f"{band.force:.2g} of the first; more steps may lower the barrier"
    )
    return _SearchResult(
        Curve.by_length(band.points),
        band.history,
        band.force,
        notes=() if band.converged else (note,),
    )


def _train_curve(
    surface: Surface,
    ends: tuple[Tensor, Tensor],
    shape: Literal["bezier", "chain"],
    chosen: Mapping[str, Any],
    steps: Iterable[int],
    seed: int,
) -> _SearchResult:
    drawn = BatchDraws(surface, chosen["batches_per_step"], seed=seed)
    # of parts of its batches another surface is made, which cannot be opened with it
    with nullcontext() if drawn.draws else surface.open():
        curve, history = fit_curve(
            drawn,
            Curve.even(shape, between(*ends, chosen["bends"], seed=seed, jitter=_JITTER)),
            steps,
            count=chosen["steps"],
            optimizer=chosen["optimizer"],
            learning_rate=chosen["learning_rate"],
            draws=chosen["draws"],
            seed=seed,
        )
    left_out = sum(map(math.isinf, history))
    note = f"{left_out} of {len(history)} steps had losses that are not finite and were left out"
    return _SearchResult(
        curve,
        history,
        gradients=drawn.gradients,
        forwards=drawn.forwards,
        notes=(note,) if left_out else (),
    )


def _profile(
    surface: Surface, curve: Curve, points: int, refine: int, *, show: bool
) -> tuple[np.ndarray, np.ndarray]:
    grid = np.linspace(0.0, 1.0, points).tolist()
    if curve.shape == "chain":
        grid = sorted({*grid, *curve.knots.tolist()})
    with surface.open():
        return profile(lambda t: surface.loss(curve.at(t)), grid, refine=refine, show=show)


def _check_ends(surface: Surface, ends: tuple[Tensor, Tensor]) -> None:
    with surface.open():
        for name, w in zip("ab", ends, strict=True):
            loss = surface.loss(w)
            if not math.isfinite(loss):
                raise CurvwatchError(
                    f"the loss at {name} is {loss:g}: a barrier is not defined for an end that is no "
                    "minimum"
                )


def _checked_options(kind: Kind, options: Mapping[str, Any]) -> dict[str, Any]:
    known = _OPTIONS[kind]
    for name in options:
        if name not in known:
            has = f"has the options {', '.join(known)}" if known else "has no options"
            raise ValueError(f"{name}={options[name]!r}: kind={kind!r} {has}")
    chosen = {**known, **options}
    for name in ("steps", "bends", "draws", "pivots"):
        if name in chosen:
            check_count(name, chosen[name], at_least=1)
    if "inserts" in chosen:
        check_count("inserts", chosen["inserts"], at_least=0)
    if chosen.get("batches_per_step") is not None:
        check_count("batches_per_step", chosen["batches_per_step"], at_least=1)
    if "optimizer" in chosen:
        check_choice("optimizer", chosen["optimizer"], tuple(DEFAULT_RATES))
        if chosen["learning_rate"] is None:
            chosen["learning_rate"] = DEFAULT_RATES[chosen["optimizer"]]
    for name in ("learning_rate", "spring", "tolerance"):
        check_positive(name, chosen.get(name))
    return chosen
