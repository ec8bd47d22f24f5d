"""Draw docs/images/landscape.png: slices through the loss of networks trained on the digits.

`python docs/images/landscape.py`; trains three small networks and takes some 30 seconds. Prints the
numbers that docs/landscape.md quotes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer
from torch.utils.data import DataLoader, TensorDataset

from curvwatch.cli.demo.digits import DigitsNet, whole_data_set
from curvwatch.cli.demo.train import quiet
from curvwatch.landscape import plane, slice_1d, slice_2d, surface_of, trajectory

EPOCHS = 30
RUNS: dict[str, tuple[int, Callable[[Iterable[Tensor]], Optimizer]]] = {
    "SGD, seed 0": (0, lambda params: SGD(params, lr=0.1)),
    "SGD, seed 1": (1, lambda params: SGD(params, lr=0.1)),
    "Adam": (2, lambda params: Adam(params, lr=1e-3)),
}
OUT = Path(__file__).with_name("landscape.png")


class Saved(L.Callback):
    """Keeps the weights at the start and after each epoch."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """The first ones."""
        self._keep(module)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Those of an epoch."""
        self._keep(module)

    def _keep(self, module: L.LightningModule) -> None:
        self.states.append({name: w.clone() for name, w in module.state_dict().items()})


def trained(name: str) -> tuple[L.LightningModule, list[dict[str, Tensor]]]:
    """The network of a run, and its weights along the way."""
    seed, optimizer = RUNS[name]
    L.seed_everything(seed, verbose=False)
    module, saved = DigitsNet(optimizer), Saved()
    options: dict[str, Any] = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = L.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", devices=1, logger=False, callbacks=[saved], **options
    )
    trainer.fit(module, DataLoader(TensorDataset(*whole_data_set()), batch_size=64, shuffle=True))
    return module, saved.states


def pixels(figure: Figure) -> np.ndarray:
    """The figure, shape (height, width, 3)."""
    figure.set_dpi(80)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def tiled(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Pictures in rows and columns, with white around the smaller ones."""
    height = [max(p.shape[0] for p in row) for row in rows]
    width = [max(row[i].shape[1] for row in rows) for i in range(len(rows[0]))]

    def padded(picture: np.ndarray, tall: int, wide: int) -> np.ndarray:
        frame = np.full((tall, wide, 3), 255, dtype=np.uint8)
        top, left = (tall - picture.shape[0]) // 2, (wide - picture.shape[1]) // 2
        frame[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        return frame

    return np.concatenate(
        [
            np.concatenate([padded(p, h, w) for p, w in zip(row, width, strict=True)], axis=1)
            for row, h in zip(rows, height, strict=True)
        ]
    )


def main() -> None:
    """Train, slice, draw."""
    with quiet():
        runs = {name: trained(name) for name in RUNS}
        module, states = runs["SGD, seed 0"]
        surface = surface_of(module, [whole_data_set()])
        random = slice_2d(surface)
        hessian = slice_1d(surface, "hessian", ends="smallest", distance=0.6, points=61)
        three = plane(surface, [s[-1] for _, s in runs.values()], names=list(runs))
        names = [f"epoch {i}" for i in range(len(states))]
        way = trajectory(surface, states, names=names)
    print(f"smallest eigenvalue {hessian.values}, residual {hessian.residuals}, {hessian.notes}")
    print(f"along it from {hessian.start_loss:.4f} to {hessian.losses.min():.4f}")
    for name, loss in zip(three.point_names, three.point_losses, strict=True):
        print(f"{name}: loss {loss:.4f}")
    print(f"explained {way.explained}, off the plane at most {way.off_slice.max():.3g}")
    figures = [[random.plot(), hessian.plot()], [three.plot(), way.plot()]]
    imsave(OUT, tiled([[pixels(figure) for figure in row] for row in figures]))
    print(f"wrote {OUT}, {OUT.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
