"""Warmup lowers sharpness: learning rate x warmup x normalisation x initialisation."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from itertools import product
from typing import Any

import lightning as L
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from rich.progress import Progress
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from curvwatch import CurvatureMonitor, CurvwatchWarning, Sharpness
from gallery.figures import BLUE, GREY, ORANGE, panels
from gallery.finding import Check, Finding, Results
from gallery.training import Batch, Training, cross_entropy, digits, floats, rounded, train

STEPS, WARMUP, EVERY, WIDTH, MOMENTUM = 160, 80, 8, 50, 0.9
RATES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
NORMS, SCALES, WARMUPS = ("none", "BatchNorm"), (1.0, 3.0), (0, WARMUP)
ARMS = tuple(product(NORMS, SCALES))
EDGE = 2 * (1 + MOMENTUM)
# half the loss of a network that knows nothing of ten classes
TRAINS = math.log(10) / 2
# what is drawn over time: trained with warmup alone
SHOWN = (("none", 3.0, 1.0), ("BatchNorm", 1.0, 10.0))


class Warmed(Training):
    """With a learning rate that rises linearly over the first steps."""

    def __init__(self, net: nn.Module, rate: float, warmup: int) -> None:
        super().__init__(net, cross_entropy, lambda p: torch.optim.SGD(p, lr=rate, momentum=MOMENTUM))
        self._warmup = warmup

    def configure_optimizers(self) -> Any:
        """The optimizer and its schedule."""
        optimizer = super().configure_optimizers()
        schedule = LambdaLR(optimizer, lambda t: min(1.0, (t + 1) / max(1, self._warmup)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class EndIfLost(L.Callback):
    """Ends a run whose loss is not finite."""

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *args: Any) -> None:
        """After each step."""
        trainer.should_stop |= not math.isfinite(float(args[0]["loss"]))


def network(norm: str, scale: float) -> nn.Sequential:
    """64-50-50-10 with ReLU, weights `scale` times those of torch's initialisation."""
    layers: list[nn.Module] = []
    for width in (64, WIDTH):
        layers.append(nn.Linear(width, WIDTH))
        if norm == "BatchNorm":
            layers.append(nn.BatchNorm1d(WIDTH))
        layers.append(nn.ReLU())
    net = nn.Sequential(*layers, nn.Linear(WIDTH, 10))
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(scale)
    return net


def run(progress: Progress) -> Results:
    """Train each of the grid, reading the sharpness of the whole data set's loss."""
    runs = []
    for norm, scale, rate, warmup in product(NORMS, SCALES, RATES, WARMUPS):
        torch.manual_seed(0)
        monitor = CurvatureMonitor(
            [Sharpness()], every_n_steps=EVERY, probe=[digits()], alerts="off", on_error="raise"
        )
        with warnings.catch_warnings():
            # runs that fail end where curvature is dominated by rounding
            warnings.filterwarnings("ignore", "curvwatch: curvature/sharpness", CurvwatchWarning)
            train(
                Warmed(network(norm, scale), rate, warmup),
                Whole(),
                steps=STEPS + 1,
                callbacks=[monitor, EndIfLost()],
                progress=progress,
                label=f"{norm}, x{scale:g}, lr {rate:g}{', warmup' if warmup else ''}",
            )
        history = monitor.history
        steps, losses = history["curvature/loss"]
        times_rate = history["curvature/sharpness_x_lr"].values
        times_rate[np.isin(steps, history.doubtful.get("curvature/sharpness_x_lr", []))] = np.nan
        runs.append(
            {
                **{"norm": norm, "scale": scale, "rate": rate, "warmup": warmup},
                "steps": steps.tolist(),
                "loss": rounded(losses),
                "sharpness_x_lr": rounded(times_rate),
            }
        )
    return {"runs": runs}


class Whole(torch.utils.data.IterableDataset[Batch]):
    """All digits in each batch, without end."""

    def __iter__(self) -> Iterator[Batch]:
        """The same batch again and again."""
        while True:
            yield digits()


def draw(results: Results) -> Figure:
    """Which runs train, without and with warmup; sharpness x lr of two of them over time."""
    figure, (without, warmed, *shown) = panels(2, 2)
    _grid(without, results, 0, "Final loss without warmup")
    _grid(warmed, results, WARMUP, f"Final loss with {WARMUP} steps of warmup")
    for axes, (norm, scale, rate) in zip(shown, SHOWN, strict=True):
        for warmup, colour, label in (
            (0, ORANGE, "no warmup: fails"),
            (WARMUP, BLUE, "warmup: trains"),
        ):
            one = _one(results, norm, scale, rate, warmup)
            axes.semilogy(one["steps"], floats(one["sharpness_x_lr"]), color=colour, label=label)
        axes.axhline(EDGE, color=GREY, linestyle="--", linewidth=1, label=f"2 (1 + m) = {EDGE:g}")
        axes.axvspan(0, WARMUP, color="0.95")
        axes.set(title=f"Sharpness x lr: {_arm(norm, scale)}, lr {rate:g}", xlabel="optimizer step")
        axes.legend(fontsize="small")
    return figure


def _grid(axes: Axes, results: Results, warmup: int, title: str) -> None:
    losses = np.array([[_last(_one(results, n, s, rate, warmup)) for rate in RATES] for n, s in ARMS])
    shown = np.log10(np.nan_to_num(losses, nan=100.0).clip(1e-4, 10))
    axes.imshow(shown, cmap="cividis_r", norm=Normalize(-4, 1), aspect="auto")
    for (i, j), loss in np.ndenumerate(losses):
        fails = not loss <= TRAINS
        text = f"{loss:.2g}" if np.isfinite(loss) else "lost"
        axes.text(
            *(j, i, f"{text}\nfails" if fails else text),
            **{"ha": "center", "va": "center", "fontsize": 8, "color": "white" if fails else "black"},
        )
    axes.set_xticks(range(len(RATES)), [f"{rate:g}" for rate in RATES])
    axes.set_yticks(range(len(ARMS)), [_arm(*arm).replace(", ", "\n") for arm in ARMS])
    axes.set(title=title, xlabel="learning rate")
    axes.grid(visible=False)


def checks(results: Results) -> list[Check]:
    """Which learning rates train, where runs begin, and what warmup does to sharpness x lr."""
    largest = {
        (arm, w): max((r for r in RATES if _trains(_one(results, *arm, r, w))), default=0.0)
        for arm in ARMS
        for w in WARMUPS
    }
    raised = [arm for arm in ARMS if largest[arm, WARMUP] > largest[arm, 0]]
    rescued = [
        (norm, scale, rate)
        for (norm, scale), rate in product(ARMS, RATES)
        if _trains(_one(results, norm, scale, rate, WARMUP))
        and not _trains(_one(results, norm, scale, rate, 0))
    ]
    begun = [_first(_one(results, *at, 0)) for at in rescued]
    warmed = [one for one in results["runs"] if one["warmup"] and _trains(one)]
    ends = np.array([floats(one["sharpness_x_lr"])[one["steps"].index(WARMUP)] for one in warmed])
    known = ends[np.isfinite(ends)]
    ways = [_highest_on_the_way(one) for one in warmed]
    norms = [(largest[("none", s), 0], largest[("BatchNorm", s), 0]) for s in SCALES]
    return [
        Check(
            "warmup lets larger learning rates train, in each of the four networks",
            "largest without and with: "
            + "; ".join(f"{_arm(*a)}: {largest[a, 0]:g}, {largest[a, WARMUP]:g}" for a in ARMS),
            len(raised) == len(ARMS),
            expected=False,
        ),
        Check(
            "what trains with warmup alone begins over its edge without it: sharpness x lr over "
            f"2 (1 + m) = {EDGE:g}",
            f"{len(rescued)} such runs, which begin at {min(begun):.3g} to {max(begun):.3g}"
            if rescued
            else "there is no such run",
            bool(rescued) and min(begun) > EDGE,
        ),
        Check(
            "in runs that train with warmup, sharpness x lr is at or under "
            f"{EDGE:g} when the warmup ends",
            f"{max(known, default=math.nan):.2g} at most in {len(known)} runs; on the way "
            f"{max(ways, default=math.nan):.2g} at most"
            + (f"; {missing} could not be read then" if (missing := len(ends) - len(known)) else ""),
            # a reading in ten may be missing
            len(known) >= max(1.0, 0.9 * len(ends)) and bool((known <= EDGE).all()),
        ),
        Check(
            "normalisation lets larger learning rates train without warmup",
            "; ".join(
                f"weights x{s:g}: {bare:g} without, {normed:g} with BatchNorm"
                for s, (bare, normed) in zip(SCALES, norms, strict=True)
            ),
            all(normed > bare for bare, normed in norms),
        ),
    ]


def _one(results: Results, norm: str, scale: float, rate: float, warmup: int) -> Results:
    wanted = {"norm": norm, "scale": scale, "rate": rate, "warmup": warmup}
    (one,) = (r for r in results["runs"] if wanted.items() <= r.items())
    found: Results = one
    return found


def _last(one: Results) -> float:
    """The loss at the end; nan where the run was lost before."""
    return float(floats(one["loss"])[-1]) if one["steps"][-1] == STEPS else math.nan


def _first(one: Results) -> float:
    """Sharpness x lr at the start."""
    return float(floats(one["sharpness_x_lr"])[0])


def _end(one: Results) -> float:
    """Sharpness x lr at the end, nan where it could not be read."""
    return float(floats(one["sharpness_x_lr"])[-1])


def _highest_on_the_way(one: Results) -> float:
    """The largest sharpness x lr up to the end of the warmup."""
    return float(np.nanmax(floats(one["sharpness_x_lr"])[: WARMUP // EVERY + 1]))


def _trains(one: Results) -> bool:
    return _last(one) <= TRAINS


def _arm(norm: str, scale: float) -> str:
    return f"{'no normalisation' if norm == 'none' else norm}, weights x{scale:g}"


def reading(results: Results) -> str:
    """What does not agree, with the runs that show it."""
    slow = _one(results, "none", 1.0, RATES[0], 0)
    sharpened = float(np.nanmax(floats(slow["sharpness_x_lr"])) / slow["sharpness_x_lr"][0])
    thrown = [
        f"{_arm(norm, scale)} and learning rate {rate:g}"
        for (norm, scale), rate in product(ARMS, RATES)
        if _first(_one(results, norm, scale, rate, 0)) > EDGE
        and _trains(_one(results, norm, scale, rate, 0))
    ]
    lost = [one for one in results["runs"] if not _trains(one) and not math.isnan(_last(one))]
    chance = [one for one in lost if abs(_last(one) / math.log(10) - 1) < 0.1]
    flat = sum(_end(one) < EDGE for one in chance)
    warmed = [one for one in results["runs"] if one["warmup"] and _trains(one)]
    over = sum(_highest_on_the_way(one) > EDGE for one in warmed)
    return (
        "**What does not agree.** Without normalisation and with torch's own weights warmup "
        f"brings nothing. That network begins flat, and sharpens {sharpened:.0f} times as it "
        f"begins to learn (learning rate {RATES[0]:g}), which a slow start only puts off. The "
        "mechanism is the same: what counts is sharpness when the learning rate comes up, not at "
        f"the start. Beginning over the edge is no failure by itself, either: {len(thrown)} runs "
        "without warmup do ("
        + "; ".join(thrown)
        + "), are thrown to a flatter place, and train. Nor does a warmup stay under the edge all the "
        f"way: {over} of the {len(warmed)} runs that train with one have readings over it while the "
        "learning rate rises. And flat is not well: of the "
        f"{len(lost)} runs that failed with a finite loss {len(chance)} end within a tenth of log 10, "
        "the loss of a uniform prediction, and "
        f"{'all' if flat == len(chance) else flat} of these are under their edge there. A "
        "missing point of a curve is a doubtful reading."
    )


FINDING = Finding(
    name="warmup",
    title="Warmup lowers sharpness, so that larger learning rates train",
    claim="Training fails where sharpness is far over what the learning rate can stand. Warmup, "
    "normalisation and initialisation help by one mechanism: they bring the run to where sharpness is "
    "low enough for the learning rate, so that larger ones train.",
    source="Gilmer et al. 2022, arXiv:2110.04369; see also Kalra & Barkeshli 2024, arXiv:2406.09405.",
    setting=f"{len(RATES)} learning rates x no warmup or {WARMUP} steps of a linear one x without and "
    "with BatchNorm x weights of torch's initialisation once or three times: "
    f"{len(RATES) * 8} runs of {STEPS} steps of an MLP 64-50-50-10 with ReLU on scikit-learn's 1797 "
    "handwritten digits, all in one batch, cross-entropy, SGD with momentum .9; `Sharpness` on the "
    f"same batch every {EVERY} steps. A run trains if its loss ends under half of log 10, which is "
    "what a network without knowledge has.",
    run=run,
    draw=draw,
    checks=checks,
    reading=reading,
    alt="Final losses over learning rates and networks, without and with warmup; sharpness times "
    "learning rate over time of two pairs of runs, with its edge",
)
