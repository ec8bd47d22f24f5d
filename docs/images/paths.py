"""Draw docs/images/paths.png: what lies between two networks that were trained on the digits.

`python docs/images/paths.py`; trains two small networks and takes about a minute. Prints the numbers
that docs/landscape.md quotes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import lightning as L
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.optim import Adam
from torch.utils.data import DataLoader, TensorDataset

from curvwatch.cli.demo.digits import Batch, DigitsNet, whole_data_set
from curvwatch.cli.demo.train import quiet
from curvwatch.landscape import Snapshots, align, interpolate, path, surface_of

EPOCHS = 30
OUT = Path(__file__).with_name("paths.png")
BLUE, ORANGE, GREEN, PURPLE, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "0.2"


def trained(seed: int, folder: Path) -> tuple[L.LightningModule, list[Path]]:
    """A network after its training, and the files of its snapshots, in order."""
    L.seed_everything(seed, verbose=False)
    module = DigitsNet(lambda params: Adam(params, lr=1e-3))
    snapshots = Snapshots(folder / f"seed{seed}")
    options: dict[str, Any] = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = L.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", devices=1, logger=False, callbacks=[snapshots], **options
    )
    trainer.fit(module, DataLoader(TensorDataset(*whole_data_set()), batch_size=64, shuffle=True))
    return module, list(snapshots.paths.values())


def legend(axes: Axes, **options: Any) -> None:
    """Below, where no curve is."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), fontsize="small", **options)


def draw_paths(axes: Axes, module: L.LightningModule, a: Path, b: Path) -> None:
    """Left: several ways from one network to the other."""
    surface = surface_of(module, [whole_data_set()])
    near = align(module, a, b)
    print(
        f"aligned: {near.moved:.0%} moved, distance {near.distance_before:.3g} to {near.distance:.3g}"
    )
    found = {
        ("straight line", BLACK): path(surface, a, b),
        ("straight line, hidden units aligned", PURPLE): path(surface, a, near),
        ("chain with one bend", BLUE): path(surface, a, b, kind="chain"),
        ("Bezier curve with one bend", ORANGE): path(surface, a, b, kind="bezier"),
        ("nudged elastic band of 7 pivots", GREEN): path(surface, a, b, kind="band", steps=200),
    }
    for (label, color), way in found.items():
        axes.plot(way.t, way.losses, color=color, label=f"{label}: {way.barrier:.2g}")
        print(
            f"{label}: barrier {way.barrier:.4f} at t = {way.barrier_t:.2f}, length {way.length:.3g}, "
            f"{way.gradients:g} gradients, {way.forwards:g} forwards {way.notes}"
        )
    axes.set(title="Between two minima", xlabel="t", ylabel="loss on the training set", yscale="log")
    legend(axes, title="barrier")


def logits(module: Any, batch: Batch) -> Tensor:
    """The outputs, which a loss that is written by hand does not show."""
    return module.net(batch[0])


def draw_lines(axes: Axes, module: L.LightningModule, runs: list[list[Path]]) -> None:
    """Right: from initialisation to end, and from the initialisation of the other."""
    surface = surface_of(module, [whole_data_set()])
    (start, *_, end), other = runs[0], runs[1][0]
    for label, color, a, snapshots in (
        ("its own initialisation", BLUE, start, runs[0]),
        ("that of the other", ORANGE, other, None),
    ):
        line = interpolate(surface, a, end, snapshots=snapshots, outputs=logits)
        verdict = "monotone" if line.monotone else f"rises by {line.bump:.2g}"
        axes.plot(line.alphas, line.losses, color=color, label=f"from {label}: {verdict}")
        gauss = line.gauss
        print(
            f"from {label}: bump {line.bump:.4f}, distance {line.distance:.3g}, "
            f"way {line.path_length:.3g}"
        )
        print(
            f"  Gauss length {gauss.joint:.3g} +- {gauss.joint_error:.1g}, "
            f"each {gauss.each:.3g} +- {gauss.each_error:.1g} {line.notes}"
        )
    axes.set(title="From an initialisation to the minimum", xlabel="alpha", yscale="log")
    legend(axes)


def main() -> None:
    """Train, find paths, draw."""
    with quiet(), tempfile.TemporaryDirectory() as folder:
        made = [trained(seed, Path(folder)) for seed in (0, 1)]
        module, runs = made[0][0], [files for _, files in made]
        size = sum(file.stat().st_size for file in runs[0])
        print(f"{len(runs[0])} snapshots of {EPOCHS} epochs, {size / 1e6:.1f} MB")
        figure = Figure(figsize=(11, 5.5), layout="constrained")
        left, right = figure.subplots(1, 2)
        draw_paths(left, module, runs[0][-1], runs[1][-1])
        draw_lines(right, module, runs)
        figure.savefig(OUT, dpi=80)
    print(f"The picture is {OUT}")


if __name__ == "__main__":
    main()
