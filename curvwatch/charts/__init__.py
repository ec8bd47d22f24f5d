"""The charts of all measures: of TensorBoard, W&B, the report, the terminal and the figures."""

from curvwatch.charts.chart import (
    LAYER,
    MATRIX,
    NUMBER,
    OTHER,
    Chart,
    Match,
    has_place,
    is_shown,
    match,
    names_of,
    placed,
    regex,
)
from curvwatch.charts.errors import ERRORS, Error, errors_of, half_widths
from curvwatch.charts.figures import CurveLike
from curvwatch.charts.layers import COST, LAYERS
from curvwatch.charts.spectrum import (
    DENSITY,
    LAYER_DENSITY,
    MATRICES,
    OTHER_MATRICES,
    SPECTRUM,
    SUBSPACE,
    density_title,
    is_density,
    layer_densities,
    whole_densities,
)
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
    "Other matrices": OTHER_MATRICES,
    "Layers": LAYERS,
    "Subspace": SUBSPACE,
    "Batches and noise": BATCHES,
    "Gradients and activations": GRADIENTS,
    "Stationary points": STATIONARY,
}
# by title; titles are unique
CHARTS: dict[str, Chart] = {chart.title: chart for charts in SECTIONS.values() for chart in charts}
__all__ = [
    "CHARTS",
    "DENSITY",
    "ERRORS",
    "FIRST",
    "LAYER",
    "LAYER_DENSITY",
    "MATRIX",
    "NUMBER",
    "OTHER",
    "SECTIONS",
    "SHORT_STORY",
    "STORY",
    "Chart",
    "CurveLike",
    "Error",
    "Match",
    "Story",
    "density_title",
    "errors_of",
    "half_widths",
    "has_place",
    "is_density",
    "is_shown",
    "layer_densities",
    "match",
    "names_of",
    "placed",
    "regex",
    "whole_densities",
]
