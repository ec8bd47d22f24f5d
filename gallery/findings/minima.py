"""Monotone interpolation from the start, and a low path between two minima."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.progress import Progress

from curvwatch.landscape import Snapshots, align, interpolate, path, surface_of
from gallery.figures import BLUE, COLOURS, ORANGE, panels
from gallery.finding import Check, Finding, Results
from gallery.training import (
    Shuffled,
    Training,
    cross_entropy,
    digits,
    floats,
    relu_mlp,
    rounded,
    train,
)

STEPS = 1500
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
}
PATHS = {
    "straight line": {},
    "straight line, hidden units aligned": {},
    "chain with one bend": {"kind": "chain"},
    "Bezier curve with one bend": {"kind": "bezier"},
    "nudged elastic band": {"kind": "band", "steps": 150},
}


def run(progress: Progress) -> Results:
    """Train from two seeds, and look between the snapshots."""
    data = digits()
    results: Results = {}
    with tempfile.TemporaryDirectory() as folder:
        ends: dict[str, list[Path]] = {}
        for name, optimizer in OPTIMIZERS.items():
            for seed in (0, 1):
                torch.manual_seed(seed)
                module = Training(relu_mlp(), cross_entropy, optimizer)
                snapshots = Snapshots(Path(folder) / f"{name}{seed}")
                train(
                    module,
                    Shuffled(data, 64, seed=seed),
                    steps=STEPS,
                    callbacks=[snapshots],
                    progress=progress,
                    label=f"{name}, seed {seed}",
                )
                ends[f"{name} {seed}"] = list(snapshots.paths.values())
            files = ends[f"{name} 0"]
            line = interpolate(
                surface_of(module, [data]), files[0], files[-1], snapshots=files, progress=False
            )
            results[f"line {name}"] = {
                "alphas": rounded(line.alphas),
                "losses": rounded(line.losses),
                "bump": float(f"{line.bump:.4g}"),
                "monotone": bool(line.monotone),
                "distance": float(f"{line.distance:.4g}"),
                "path_length": float(f"{line.path_length:.4g}"),
            }
        surface = surface_of(module, [data])
        a, b = ends["sgd 0"][-1], ends["sgd 1"][-1]
        task = progress.add_task("paths", total=len(PATHS))
        for label, options in PATHS.items():
            other: Any = align(module, a, b) if "aligned" in label else b
            way = path(surface, a, other, progress=False, **options)
            results[label] = {
                "t": rounded(way.t),
                "losses": rounded(way.losses),
                "barrier": float(f"{way.barrier:.4g}"),
                "notes": list(way.notes),
            }
            progress.advance(task)
    return results


def draw(results: Results) -> Figure:
    """The line from the start to the end; paths between two ends."""
    figure, (lines, ways) = panels(2)
    for name, colour, label in (("sgd", BLUE, "SGD with momentum"), ("adam", ORANGE, "Adam")):
        line = results[f"line {name}"]
        verdict = "monotone" if line["monotone"] else f"rises by {line['bump']:.2g}"
        lines.semilogy(line["alphas"], line["losses"], color=colour, label=f"{label}: {verdict}")
    lines.set(title="From initialisation to the end", xlabel="alpha", ylabel="loss")
    lines.legend(fontsize="small")
    for label, colour in zip(PATHS, COLOURS, strict=False):
        way = results[label]
        losses = floats(way["losses"])
        ways.semilogy(way["t"], losses, color=colour, label=f"{label}: {way['barrier']:.2g}")
    ways.set(title="Between two minima", xlabel="t")
    ways.legend(title="barrier", fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def checks(results: Results) -> list[Check]:
    """Monotone lines, and barriers against that of the straight line."""
    straight, ends = (results["straight line"][name] for name in ("barrier", "losses"))
    found = [
        Check(
            f"the loss falls all the way from initialisation to the end ({label})",
            f"largest rise {results[f'line {name}']['bump']:.2g}",
            results[f"line {name}"]["monotone"],
        )
        for name, label in (("sgd", "SGD with momentum"), ("adam", "Adam"))
    ]
    found.append(
        Check(
            "the straight line between two minima has a barrier of many times their losses",
            f"{straight:.2g}, and losses of {ends[0]:.2g} and {ends[-1]:.2g}",
            straight > 10 * max(ends[0], ends[-1]),
        )
    )
    for label in ("chain with one bend", "Bezier curve with one bend", "nudged elastic band"):
        barrier = results[label]["barrier"]
        found.append(
            Check(
                f"a {label} has a barrier of under a tenth of it",
                f"{barrier:.2g}",
                barrier < 0.1 * straight,
            )
        )
    aligned = results["straight line, hidden units aligned"]["barrier"]
    found.append(
        Check(
            "permuting hidden units lowers the barrier of the straight line to under a tenth",
            f"{aligned:.2g}",
            aligned < 0.1 * straight,
        )
    )
    return found


def reading(results: Results) -> str:
    """What barriers are bounds of."""
    notes = [f"{label}: {note}" for label in PATHS for note in results[label]["notes"]]
    return (
        "The paths join the two minima of SGD. Git Re-Basin and Entezari et al. find no barrier left "
        "for wide networks; this one is narrow, and a small one is left. Barriers are upper bounds of "
        "the pass between two minima: a path that was trained longer may be lower."
        + (f" Notes of the searches: {'; '.join(notes)}." if notes else "")
    )


FINDING = Finding(
    name="minima",
    title="Lines from the start fall all the way, and minima are joined by low paths",
    claim="On the straight line from initialisation to the end of a training the loss falls "
    "monotonically. Between two minima the straight line has a barrier, but simple curves join them at "
    "a low loss, and most of the barrier goes away once the hidden units of one are permuted to match "
    "those of the other.",
    source="Goodfellow, Vinyals & Saxe 2015, arXiv:1412.6544; Lucas et al. 2021, arXiv:2104.11044; "
    "Garipov et al. 2018, arXiv:1802.10026; Draxler et al. 2018, arXiv:1803.00885; Entezari et al. "
    "2022, arXiv:2110.06296; Ainsworth, Hayase & Srinivasa 2023, arXiv:2209.04836.",
    setting="An MLP 64-50-50-10 with ReLU on scikit-learn's 1797 handwritten digits, cross-entropy, "
    f"batches of 64 for {STEPS} steps, from two seeds, with SGD with momentum (lr .05) and Adam (lr "
    "1e-3). `Snapshots` keeps the weights, `curvwatch.landscape` looks between them, at the loss of "
    "the whole data set.",
    run=run,
    draw=draw,
    checks=checks,
    reading=reading,
    alt="Loss along the line from initialisation to the end, and along five paths between two minima",
)
