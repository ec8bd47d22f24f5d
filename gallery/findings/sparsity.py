"""A ReLU transformer uses few of its hidden units at a time."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from rich.progress import Progress
from torch import Tensor, nn

from curvwatch import CurvatureMonitor
from curvwatch.measures import ActivationSparsity
from gallery.figures import COLOURS, GREY, panels
from gallery.finding import Check, Finding, Results
from gallery.text import Text
from gallery.training import Training, cross_entropy, floats, rounded, train

STEPS, EVERY, LENGTH, BATCH, LAYERS, WIDTH = 2500, 50, 64, 16, 3, 64
NAMES = [f"curvature/layer/net.blocks.layers.{i}/nonzero_share" for i in range(LAYERS)]


class Decoder(nn.Module):
    """A pre-norm transformer of torch's own layers with ReLU; logits are flat."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, WIDTH)
        self.positions = nn.Embedding(LENGTH, WIDTH)
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, dropout=0.0, activation="relu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, vocabulary)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(LENGTH))

    def forward(self, x: Tensor) -> Tensor:
        """From tokens of shape (batch, length) to logits of shape (batch x length, vocabulary)."""
        embedded = self.tokens(x) + self.positions.weight
        logits: Tensor = self.head(self.norm(self.blocks(embedded, mask=self.mask, is_causal=True)))
        return logits.flatten(0, 1)


def run(progress: Progress) -> Results:
    """Train on text, reading the shares."""
    data = Text(length=LENGTH, size=BATCH)
    torch.manual_seed(0)
    net = Decoder(len(data.alphabet))
    monitor = CurvatureMonitor([ActivationSparsity()], every_n_steps=EVERY, on_error="raise")
    module = Training(net, cross_entropy, lambda p: torch.optim.Adam(p, lr=2e-3))
    train(module, data, steps=STEPS + 1, callbacks=[monitor], progress=progress, label="text")
    history = monitor.history
    return {
        "steps": history[NAMES[0]].steps.tolist(),
        "whole": rounded(history["curvature/nonzero_share"].values),
        **{f"layer {i}": rounded(history[name].values) for i, name in enumerate(NAMES)},
    }


def draw(results: Results) -> Figure:
    """The share of each layer over time."""
    figure, (axes,) = panels(1)
    axes.axhline(0.5, color=GREY, linestyle="--", linewidth=1)
    for i, colour in zip(range(LAYERS), COLOURS, strict=False):
        values = floats(results[f"layer {i}"])
        axes.plot(results["steps"], values, color=colour, linewidth=1.8, label=f"block {i}")
    axes.set(title="Hidden units that are not zero", xlabel="optimizer step", ylim=(0, 0.6))
    axes.set_ylabel("share of all entries")
    axes.legend()
    return figure


def checks(results: Results) -> list[Check]:
    """Half at the start, few at the end."""
    whole = floats(results["whole"])
    last = [results[f"layer {i}"][-1] for i in range(LAYERS)]
    return [
        Check(
            "at the start half of the hidden units are on",
            f"{whole[0]:.2f}",
            abs(whole[0] - 0.5) < 0.1,
        ),
        Check(
            "training makes them sparse: under .35 at the end, from .5",
            f"{whole[-1]:.2f}; by blocks {', '.join(f'{v:.2f}' for v in last)}",
            whole[-1] < 0.35,
        ),
        Check(
            "only a few per cent are on at the end, as in the paper's networks: under a tenth",
            f"{whole[-1]:.2f}",
            whole[-1] < 0.1,
            expected=False,
        ),
    ]


def reading(results: Results) -> str:
    """How far the run is from the paper's networks."""
    whole = floats(results["whole"])
    earlier = len(whole) - 1 - (len(whole) - 1) // 5
    return (
        "The networks of the paper are larger and trained for longer, and fall to a few per cent. Here "
        f"the share {'still falls' if whole[-1] < whole[earlier] else 'no longer falls'} when the run "
        f"ends: {whole[earlier]:.3f} at step {results['steps'][earlier]}, {whole[-1]:.3f} at the end."
    )


FINDING = Finding(
    name="sparsity",
    title="A ReLU transformer uses few of its hidden units at a time",
    claim="After training only a small share of the hidden units of a transformer's MLP blocks is not "
    "zero for a given token, though nothing in the loss asks for it.",
    source='Li et al. 2023, arXiv:2210.06313, "The lazy neuron phenomenon".',
    setting=f"A causal transformer ({LAYERS} blocks, width {WIDTH}, MLPs of {4 * WIDTH} ReLU units) on "
    "the characters of the manual of Python in its standard library, sequences of "
    f"{LENGTH} in batches of {BATCH}, Adam (lr 2e-3) for {STEPS} steps; `ActivationSparsity` on the "
    f"first batch every {EVERY} steps.",
    run=run,
    draw=draw,
    checks=checks,
    reading=reading,
    alt="Share of hidden units that are not zero over training, a line for each block",
)
