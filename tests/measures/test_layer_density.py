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
from tests.support.cases import CASES, dense, flat
from tests.support.studies import only

pytestmark = pytest.mark.usefixtures("double_precision")


def binned(spectra):
    """Bins and masses of spectra that are known: 256 bins, a Gaussian of 1 % of the range."""
    every = np.concatenate(spectra)
    width = 0.01 * (every.max() - every.min())
    edges = np.linspace(every.min() - 4 * width, every.max() + 4 * width, 257)
    return edges, [np.diff(norm.cdf(edges[:, None], s, width).mean(axis=1)) for s in spectra]


def exact(spectra):
    """Mean distance of the shapes of known spectra, by scipy; bins and masses of themselves."""
    _, shapes = binned([s / np.abs(s).max() for s in spectra])
    pairs = [(p, q) for i, p in enumerate(shapes) for q in shapes[:i]]
    return float(np.mean([jensenshannon(p, q, base=2) for p, q in pairs])), *binned(spectra)


def diagonal(spectra):
    """A module and a loss whose Hessian has a diagonal block for each of `spectra`."""
    module = nn.ParameterDict(
        {f"p{i}": nn.Parameter(torch.zeros(len(s))) for i, s in enumerate(spectra)}
    )

    def loss(_):
        pairs = zip(module.values(), spectra, strict=True)
        return sum((torch.tensor(s) * p**2).sum() / 2 for p, s in pairs)

    return Objective.of_batches(module, loss, [torch.ones(1)])


def test_of_diagonal_blocks_densities_are_exact():
    # on a diagonal matrix random signs see each eigenvalue with the same weight
    spectra = [np.array([1.0, 2.0, 5.0]), np.array([-1.0, 2.0, 2.5, 4.0]), np.array([5.0])]
    with landscape(diagonal(spectra)) as at:
        reading = LayerCurvature(by="parameter").read(at)
    distance, edges, masses = exact(spectra)
    assert reading.values["curvature/layer_heterogeneity"] == pytest.approx(distance, rel=1e-9)
    assert reading.values["curvature/layer_heterogeneity_stderr"] == pytest.approx(0.0, abs=1e-12)
    for i, mass in enumerate(masses):
        histogram = reading.histograms[f"curvature/layer/p{i}/density"]
        np.testing.assert_allclose(histogram.edges, edges)
        np.testing.assert_allclose(histogram.weights, mass / mass.sum(), atol=1e-12)


@pytest.mark.parametrize("name", only(CASES, take=["mlp_mse"]))
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


def test_scale_does_not_set_layers_apart_and_layers_without_curvature_do_not_count():
    shape = np.array([-0.5, 0.25, 0.5, 1.0])
    alike = [shape * scale for scale in (1e-12, 1.0, 1e3)]
    with landscape(diagonal(alike)) as at:
        reading = LayerCurvature(by="parameter").read(at)
    assert reading.values["curvature/layer_heterogeneity"] == pytest.approx(0.0, abs=1e-6)
    unlike, flat_one = [shape, np.array([3.0, 3.0, 0.0])], np.zeros(3)
    with landscape(diagonal([*unlike, flat_one])) as at:
        reading = LayerCurvature(by="parameter").read(at)
    assert reading.values["curvature/layer_heterogeneity"] == pytest.approx(exact(unlike)[0], rel=1e-9)
    with landscape(diagonal([shape, flat_one])) as at:
        reading = LayerCurvature(by="parameter").read(at)
    assert math.isnan(reading.values["curvature/layer_heterogeneity"])
    assert math.isnan(reading.values["curvature/layer_heterogeneity_stderr"])
    assert "fewer than two layers have curvature" in reading.notes[0]


def test_layers_that_are_all_flat_are_not_compared():
    with landscape(diagonal([np.zeros(2), np.zeros(3)])) as at:
        reading = LayerCurvature(by="parameter").read(at)
    assert math.isnan(reading.values["curvature/layer_heterogeneity"])
    assert "fewer than two layers have curvature" in reading.notes[-1]


def test_rounding_in_place_of_curvature_is_no_layer():
    # the bias does nothing before a batch norm: its products are rounding, of either precision
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).float()
    x, y = torch.randn(16, 5).float(), torch.randint(2, (16,))
    objective = Objective.of_batches(
        model, lambda batch: nn.functional.cross_entropy(model(batch[0]), batch[1]), [(x, y)]
    )
    with landscape(objective) as at:
        reading = LayerCurvature(by=lambda n: n if n in ("0.bias", "3.bias") else None).read(at)
    assert math.isnan(reading.values["curvature/layer_heterogeneity"])
    assert "fewer than two layers have curvature" in reading.notes[-1]


def test_one_layer_has_none_to_compare_with():
    model = nn.Linear(3, 1)
    objective = Objective.of_batches(model, lambda x: model(x).square().mean(), [torch.randn(4, 3)])
    with landscape(objective) as at:
        reading = LayerCurvature(by=lambda name: "all").read(at)
    assert math.isnan(reading.values["curvature/layer_heterogeneity"])
    assert "fewer than two layers" in reading.notes[0]
    assert list(reading.histograms) == ["curvature/layer/all/density"]
