"""The charts of all measures: of TensorBoard, W&B, the report, the terminal and the figures."""

from curvwatch.charts.chart import (
    LAYER,
    NUMBER,
    OTHER,
    Chart,
    Match,
    has_place,
    is_shown,
    match,
    names_of,
    regex,
)
from curvwatch.charts.errors import ERRORS, Error, errors_of, half_widths
from curvwatch.charts.layers import COST, LAYERS
from curvwatch.charts.spectrum import MATRICES, SPECTRUM, SUBSPACE
from curvwatch.charts.stability import BATCHES, STABILITY, STATIONARY
from curvwatch.charts.steps import GRADIENTS, STEPS
from curvwatch.charts.story import FIRST, SHORT_STORY, STORY, Story

# those of the measures by default come first, so that pages of older logs join with newer ones
SECTIONS: dict[str, tuple[Chart, ...]] = {
    "Stability": STABILITY,
    "Steps": STEPS,
    "Cost": COST,
    "Spectrum": SPECTRUM,
    "Gauss-Newton and Fisher": MATRICES,
    "Layers": LAYERS,
    "Subspace": SUBSPACE,
    "Batches and noise": BATCHES,
    "Gradients and activations": GRADIENTS,
    "Stationary points": STATIONARY,
}
# by title; titles are unique
CHARTS: dict[str, Chart] = {chart.title: chart for charts in SECTIONS.values() for chart in charts}
# distributions, which heat maps show over time
DENSITY, LAYER_DENSITY = "curvature/density", "curvature/layer/<layer>/density"

__all__ = [
    "CHARTS",
    "DENSITY",
    "ERRORS",
    "FIRST",
    "LAYER",
    "LAYER_DENSITY",
    "NUMBER",
    "OTHER",
    "SECTIONS",
    "SHORT_STORY",
    "STORY",
    "Chart",
    "Error",
    "Match",
    "Story",
    "errors_of",
    "half_widths",
    "has_place",
    "is_shown",
    "match",
    "names_of",
    "regex",
]
