"""Cost against error of each tool: one panel a run."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.peers import PEERS
from benchmarks.workloads import OPTIMIZER_LABELS, WORKLOADS

# distinguishable with any colour vision
LOOKS = {
    "curvwatch": ("curvwatch", "#0072B2", "o"),
    "pyhessian": (PEERS["pyhessian"].label, "#D55E00", "s"),
    "eigenthings": (PEERS["eigenthings"].label, "#009E73", "^"),
    "curvlinops": (PEERS["curvlinops"].label, "#CC79A7", "D"),
}
# below this an error is one of the reference
FLOOR = 1e-6


def drawn(results: dict[str, Any]) -> Figure:
    """Small dots: readings but the first; a large mark: median cost and the error at 95 %."""
    runs = results["runs"]
    columns = max(1, -(-len(runs) // 2)) if len(runs) > 2 else len(runs)
    rows = -(-len(runs) // columns)
    figure = Figure(figsize=(4 * columns + 0.4, 3.4 * rows + 0.7), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    # columns are networks, rows optimizers
    for index, (key, run) in enumerate(runs.items()):
        name, optimizer = key.split()
        axes = grid[index % rows, index // rows]
        axes.axhspan(0.01, 2, color="0.95", zorder=0)
        axes.axvline(3, color="0.6", linestyle=":", linewidth=1.2)
        for tool, (label, colour, marker) in LOOKS.items():
            values = run["tools"].get(tool)
            if values is None or not values["gradients"]:
                continue
            cost = np.array(values["gradients"][1:])
            error = np.maximum(values["errors"]["plain"][1:], FLOOR)
            axes.plot(cost, error, marker, color=colour, markersize=3.5, alpha=0.35, mew=0)
            x, y = np.median(cost), np.quantile(error, 0.95)
            axes.plot(x, y, marker, color=colour, markersize=11, mec="white", mew=1.2, label=label)
        axes.set(xscale="log", yscale="log", xlim=(2, 500), ylim=(FLOOR / 1.5, 1))
        axes.set_xticks([3, 10, 30, 100, 300], ["3", "10", "30", "100", "300"])
        axes.minorticks_off()
        axes.set_yticks([1e-6, 1e-4, 1e-2, 1], ["1e-6", "1e-4", "1 %", "100 %"])
        axes.grid(color="0.9", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        title = f"{WORKLOADS[name].label}, {OPTIMIZER_LABELS[optimizer]}"
        axes.set_title(title, fontsize=12, fontweight="bold", loc="left")
    for axes in grid[:, 0]:
        axes.set_ylabel("relative error", fontsize=11)
    for axes in grid[-1]:
        axes.set_xlabel("cost of a reading, gradients", fontsize=11)
    handles = {h.get_label(): h for axes in grid.flat for h in axes.get_legend_handles_labels()[0]}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False)
    return figure
