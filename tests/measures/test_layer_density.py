"""Densities of layers and their distances against dense spectra."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import norm
from torch import nn

from curvwatch import Objective
from curvwatch.measures import LayerCurvature
from curvwatch.measures.layer_density import jensen_shannon
from tests.measures.points import landscape, objective_of
from tests.measures.test_layer_curvature import dense_blocks
from tests.numerics.cases import CASES, dense, flat

pytestmark = pytest.mark.usefixtures("double_precision")


def exact(spectra):
    """Mean distance of spectra that are known, by scipy: 256 bins, a Gaussian of 1 % of the range."""
    every = np.concatenate(spectra)
    width = 0.01 * (every.max() - every.min())
    edges = np.linspace(every.min() - 4 * width, every.max() + 4 * width, 257)
    masses = [np.diff(norm.cdf(edges[:, None], s, width).mean(axis=1)) for s in spectra]
    pairs = [(p, q) for i, p in enumerate(masses) for q in masses[:i]]
    return float(np.mean([jensenshannon(p, q, base=2) for p, q in pairs])), edges, masses


def test_of_diagonal_blocks_densities_are_exact():
    # on a diagonal matrix random signs see each eigenvalue with the same weight
    spectra = [np.array([1.0, 2.0, 5.0]), np.array([-1.0, 2.0, 2.5, 4.0]), np.array([5.0])]
    module = nn.ParameterDict(
        {f"p{i}": nn.Parameter(torch.zeros(len(s))) for i, s in enumerate(spectra)}
    )

    def loss(_):
        pairs = zip(module.values(), spectra, strict=True)
        return sum((torch.tensor(s) * p**2).sum() / 2 for p, s in pairs)

    measure = LayerCurvature(by="parameter")
    with landscape(Objective.of_batches(module, loss, [torch.ones(1)])) as at:
        reading = measure.read(at)
    distance, edges, masses = exact(spectra)
    assert reading.values["curvature/layer_heterogeneity"] == pytest.approx(distance, rel=1e-9)
    assert reading.values["curvature/layer_heterogeneity_stderr"] == pytest.approx(0.0, abs=1e-12)
    for i, mass in enumerate(masses):
        histogram = reading.histograms[f"curvature/layer/p{i}/density"]
        np.testing.assert_allclose(histogram.edges, edges)
        np.testing.assert_allclose(histogram.weights, mass / mass.sum(), atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_with_many_vectors_the_distance_is_that_of_the_dense_spectra(name):
    case = CASES[name]
    model = case.model()
    batch = case.batch(6)
    hessian = dense(case, model, [batch], flat(list(model.parameters()))).hessian
    blocks = dense_blocks(model, hessian, "module")
    distance, _, masses = exact([np.linalg.eigvalsh(b) for b in blocks.values()])
    reads = {}
    for probes in (2, 8):
        measure = LayerCurvature(density_probes=probes, density_steps=30)
        with landscape(objective_of(case, model, [batch])) as at:
            reading = measure.read(at)
        reads[probes] = reading.values["curvature/layer_heterogeneity"]
        error = reading.values["curvature/layer_heterogeneity_stderr"]
        assert 0.0 < error < 0.1
    assert reads[8] == pytest.approx(distance, abs=4 * error + 0.01)
    assert abs(reads[8] - distance) <= abs(reads[2] - distance) + 2 * error
    for layer, mass in zip(blocks, masses, strict=True):
        histogram = reading.histograms[f"curvature/layer/{layer}/density"]
        assert histogram.weights.sum() == pytest.approx(1.0)
        assert jensen_shannon(histogram.weights, mass / mass.sum()) < 0.2
        middle = (histogram.edges[1:] + histogram.edges[:-1]) / 2
        size = len(blocks[layer])
        trace = float(blocks[layer].trace())
        error = reading.values[f"curvature/layer/{layer}/trace_stderr"]
        assert size * (histogram.weights @ middle) == pytest.approx(trace, abs=3 * error + 1e-2 * size)


def test_one_layer_has_none_to_compare_with():
    model = nn.Linear(3, 1)
    objective = Objective.of_batches(model, lambda x: model(x).square().mean(), [torch.randn(4, 3)])
    with landscape(objective) as at:
        reading = LayerCurvature(by=lambda name: "all").read(at)
    assert math.isnan(reading.values["curvature/layer_heterogeneity"])
    assert "one layer" in reading.notes[0]
    assert list(reading.histograms) == ["curvature/layer/all/density"]
