"""One quantity a file; each can be switched on in `CurvatureMonitor(measures=[...])`."""

from collections.abc import Collection, Iterable

from curvwatch.measures.activations import ActivationSparsity
from curvwatch.measures.base import (
    COST_METRICS,
    Landscape,
    LandscapeMeasure,
    Measure,
    Reading,
    Stage,
    Step,
    StepMeasure,
    check_cadence,
)
from curvwatch.measures.batch_sharpness import BatchSharpness
from curvwatch.measures.compared import Compared
from curvwatch.measures.critical_sharpness import CriticalSharpness
from curvwatch.measures.epsilon_sharpness import EpsilonSharpness
from curvwatch.measures.fisher import Fisher
from curvwatch.measures.gauss_newton import GaussNewton
from curvwatch.measures.gradient_noise import GradientNoise
from curvwatch.measures.gradient_stats import GradientStats
from curvwatch.measures.gradient_subspace import GradientSubspace
from curvwatch.measures.layer_curvature import LayerCurvature
from curvwatch.measures.layer_signal import LayerSignal
from curvwatch.measures.sharpness import Sharpness
from curvwatch.measures.spectral_density import SpectralDensity
from curvwatch.measures.stationary_point import StationaryPoint
from curvwatch.measures.step_geometry import StepGeometry
from curvwatch.measures.top_eigenvalues import TopEigenvalues

MEASURES: dict[str, type[Measure]] = {
    m.name: m
    for m in (
        Sharpness,
        StepGeometry,
        LayerCurvature,
        GradientSubspace,
        GradientStats,
        ActivationSparsity,
        GaussNewton,
        Fisher,
        BatchSharpness,
        GradientNoise,
        CriticalSharpness,
        SpectralDensity,
        TopEigenvalues,
        StationaryPoint,
        EpsilonSharpness,
        LayerSignal,
    )
}


# what a monitor measures by default
DEFAULT_MEASURES = (Sharpness, StepGeometry)


def make_measures(
    measures: Iterable[str | Measure | type[Measure]] | None = None,
) -> tuple[Measure, ...]:
    """Instances of `measures`: names, classes or instances; None: those by default.

    Raises:
        ValueError: one is unknown, or comes twice.
    """
    if isinstance(measures, (str, type)) or not isinstance(measures, (Iterable, type(None))):
        measures = [measures]
    made: list[Measure] = []
    for m in DEFAULT_MEASURES if measures is None else measures:
        if isinstance(m, str):
            if m not in MEASURES:
                raise ValueError(f"unknown measure {m!r}; there are {', '.join(MEASURES)}")
            made.append(MEASURES[m]())
        elif isinstance(m, type) and issubclass(m, Measure):
            made.append(m())
        elif isinstance(m, Measure):
            made.append(m)
        else:
            raise ValueError(
                f"unknown measure {m!r}: a name ({', '.join(MEASURES)}), a Measure or a subclass of "
                "Measure is needed"
            )
    names = [m.name for m in made]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the measure {name!r} comes twice: give it once")
    return tuple(made)


def compared_by(measures: Iterable[Measure]) -> list[Compared]:
    """The optimizers whose shadow steps `measures` read."""
    return [c for m in measures if isinstance(m, StepGeometry) for c in m.compare]


def feeding(measures: Iterable[Measure], metrics: Collection[str]) -> set[str]:
    """The names of those of `measures` that read any of `metrics`."""
    return {m.name for m in measures if not set(metrics).isdisjoint(m.metrics + m.sampling_metrics)}


__all__ = [
    "COST_METRICS",
    "MEASURES",
    "ActivationSparsity",
    "BatchSharpness",
    "CriticalSharpness",
    "EpsilonSharpness",
    "Fisher",
    "GaussNewton",
    "GradientNoise",
    "GradientStats",
    "GradientSubspace",
    "Landscape",
    "LandscapeMeasure",
    "LayerCurvature",
    "LayerSignal",
    "Measure",
    "Reading",
    "Sharpness",
    "SpectralDensity",
    "Stage",
    "StationaryPoint",
    "Step",
    "StepGeometry",
    "StepMeasure",
    "TopEigenvalues",
    "check_cadence",
    "compared_by",
    "feeding",
    "make_measures",
]
