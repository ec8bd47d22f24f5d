"""The spectral density and its sums against the dense Hessian's eigenvalues."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from curvwatch import CurvatureMonitor, Objective, stability_law
from curvwatch.measures import SpectralDensity
from curvwatch.solvers import count_outliers
from tests.measures.output_twins import gauss_newton_of_case
from tests.measures.points import landscape, objective_of
from tests.support.cases import CASES, dense, flat
from tests.support.modules import Classifier, fit
from tests.support.studies import only

double = pytest.mark.usefixtures("double_precision")


def expected(eigenvalues):
    sizes = eigenvalues.abs()
    p = sizes[sizes > 0] / sizes.sum()
    return {
        "negative_mass": (eigenvalues < 0).double().mean(),
        "negative_curvature": sizes[eigenvalues < 0].sum() / sizes.sum(),
        "trace": eigenvalues.sum(),
        "frobenius": eigenvalues.norm(),
        "effective_rank": (-(p * p.log()).sum()).exp(),
        "stable_rank": eigenvalues.square().sum() / sizes.max() ** 2,
    }


@double
@pytest.mark.parametrize("name", only(CASES, take=["mlp_cross_entropy"]))
def test_sums_and_ends_are_within_their_errors_of_the_dense_ones(name):
    case = CASES[name]
    model = case.model()
    batches = [case.batch(6), case.batch(4)]
    eigenvalues = torch.linalg.eigvalsh(
        dense(case, model, batches, flat(list(model.parameters()))).hessian
    )
    with landscape(objective_of(case, model, batches)) as at:
        reading = SpectralDensity(probes=10, steps=30, leading=0, rtol=1e-5).read(at)
    assert not reading.doubts
    read = {key.removeprefix("curvature/"): value for key, value in reading.values.items()}
    low, high = float(eigenvalues[0]), float(eigenvalues[-1])
    assert read["lambda_min"] == pytest.approx(low, abs=read["lambda_min_residual"] + 1e-12)
    assert read["lambda_min_residual"] < 1e-4 * (high - low)
    condition = pytest.approx(abs(high / low), abs=read["condition_number_error"] + 1e-9)
    assert read["condition_number"] == condition
    for key, value in expected(eigenvalues).items():
        error = read[f"{key}_error"]
        assert abs(read[key] - float(value)) <= 4 * error + 1e-9, key
        if key != "negative_mass":
            # a trace may be a small difference of large sums
            assert error < 0.8 * float(eigenvalues.abs().sum() if key == "trace" else value), key
    (histogram,) = reading.histograms.values()
    assert histogram.weights.sum() == pytest.approx(1.0, abs=1e-6)
    middle = (histogram.edges[1:] + histogram.edges[:-1]) / 2
    width = histogram.edges[1] - histogram.edges[0]
    mean = float((histogram.weights * middle).sum())
    assert mean * len(eigenvalues) == pytest.approx(read["trace"], abs=len(eigenvalues) * width / 4)


@double
@pytest.mark.parametrize("name", only(CASES, take=["mlp_cross_entropy"]))
def test_outliers_and_the_edge_are_those_of_the_dense_spectrum(name):
    case = CASES[name]
    model = case.model()
    batches = [case.batch(6), case.batch(4)]
    eigenvalues = torch.linalg.eigvalsh(
        dense(case, model, batches, flat(list(model.parameters()))).hessian
    )
    with landscape(objective_of(case, model, batches)) as at:
        reading = SpectralDensity(probes=2, steps=4, leading=20, rtol=1e-4).read(at)
    read = {key.removeprefix("curvature/"): value for key, value in reading.values.items()}
    assert set(reading.values) == set(SpectralDensity.metrics)
    assert not reading.doubts
    leading = eigenvalues.flip(0)[:20].numpy()
    twin = count_outliers(leading)
    assert (read["outliers"], read["outliers_error"]) == (twin.count, twin.error)
    edge = float(leading[twin.count])
    assert read["bulk_edge"] == pytest.approx(edge, abs=read["bulk_edge_residual"] + 1e-12)
    assert read["bulk_edge_residual"] <= 1e-4 * edge
    condition = pytest.approx(leading[0] / edge, abs=read["condition_number_bulk_error"] + 1e-9)
    assert read["condition_number_bulk"] == condition
    assert read["condition_number_bulk_error"] < 1e-3 * read["condition_number_bulk"]


@double
def test_planted_outliers_are_found_with_their_multiplicity():
    bulk = [math.exp(-0.1 * i) for i in range(60)]
    with landscape(quadratic([9.0, 9.0, 9.0, 7.0, 6.0, *bulk, -0.5, -2.0])) as at:
        read = SpectralDensity().read(at).values
    assert (read["curvature/outliers"], read["curvature/outliers_error"]) == (5.0, 0.0)
    assert read["curvature/bulk_edge"] == pytest.approx(1.0)
    assert read["curvature/condition_number_bulk"] == pytest.approx(9.0)


@double
def test_outliers_of_a_bulk_at_zero_have_no_ratio_to_it():
    with landscape(quadratic([3.0, 2.0, 1.0] + [0.0] * 20)) as at:
        reading = SpectralDensity().read(at)
    assert reading.values["curvature/outliers"] == 3
    assert reading.values["curvature/bulk_edge"] == pytest.approx(0.0, abs=1e-9)
    assert math.isnan(reading.values["curvature/condition_number_bulk"])
    assert any("the bulk ends at 0" in note for note in reading.notes)


@double
@pytest.mark.parametrize("name", only(CASES, take=["mlp_cross_entropy", "mlp_mse"]))
def test_preconditioned_it_is_that_of_the_dense_matrix(name):
    case = CASES[name]
    model = case.model()
    batches = [case.batch(6)]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=0.01)
    measure = SpectralDensity(of="preconditioned", probes=8, steps=30, leading=0, rtol=1e-6)
    assert measure.name == "spectral_density_preconditioned"
    with landscape(objective_of(case, model, batches), optimizer=optimizer) as at:
        before = measure.read(at)
    assert all(map(math.isnan, before.values.values()))
    assert before.notes
    case.loss(model(batches[0][0]), batches[0][1]).backward()
    optimizer.step()
    with landscape(objective_of(case, model, batches), optimizer=optimizer) as at:
        reading = measure.read(at)
    H = dense(case, model, batches, flat(list(model.parameters()))).hessian
    H = H + 0.01 * torch.eye(len(H))
    law = stability_law(optimizer)
    scale = torch.cat([P.reshape(-1) for P in law.preconditioner]).rsqrt()
    eigenvalues = torch.linalg.eigvalsh(scale[:, None] * H * scale)
    read = {k.removeprefix("curvature/preconditioned/"): v for k, v in reading.values.items()}
    assert set(reading.values) == set(measure.metrics)
    assert read["lambda_min"] == pytest.approx(
        float(eigenvalues[0]), abs=read["lambda_min_residual"] + 1e-9
    )
    for key, value in expected(eigenvalues).items():
        assert abs(read[key] - float(value)) <= 4 * read[f"{key}_error"] + 1e-9, key
    assert set(reading.histograms) == {"curvature/preconditioned/density"}


@double
@pytest.mark.parametrize("name", only(CASES, take=["mlp_mse", "transformer_sdpa"]))
def test_of_gauss_newton_and_fisher_it_is_that_of_the_dense_matrix(name):
    case = CASES[name]
    model = case.model()
    batches = [case.batch(5)]
    eigenvalues = torch.linalg.eigvalsh(gauss_newton_of_case(case, model, batches)).clamp(min=0)
    # of these losses the true Fisher matrix is Gauss-Newton
    for of in ("gauss_newton", "fisher"):
        with landscape(objective_of(case, model, batches)) as at:
            reading = SpectralDensity(of=of, probes=4, steps=20, leading=8).read(at)
        read = {k.removeprefix(f"curvature/{of}/"): v for k, v in reading.values.items()}
        for key in ("trace", "frobenius", "stable_rank"):
            error = read[f"{key}_error"]
            twin = float(expected(eigenvalues)[key])
            # a mean squared error by K outputs is K / 2 times the log likelihood of one
            assert abs(read[key] - twin) <= 4 * error + 1e-9, (of, key)
            assert error < 0.6 * twin
        assert abs(read["lambda_min"]) <= read["lambda_min_residual"] + 1e-9


def test_the_densities_of_several_matrices_are_measures_of_their_own():
    small = {"probes": 2, "steps": 4, "leading": 8}
    measures = [SpectralDensity(**small), SpectralDensity(of="gauss_newton", **small)]
    monitor = CurvatureMonitor(measures, every_n_steps=2, on_error="raise")
    fit(Classifier(), monitor, max_steps=4)
    for name in ("curvature/trace", "curvature/gauss_newton/trace"):
        assert monitor.history[name].steps.tolist() == [0, 2]
    with pytest.raises(ValueError, match="comes twice"):
        CurvatureMonitor([SpectralDensity(of="fisher"), SpectralDensity(of="fisher")])


def quadratic(eigenvalues):
    net = nn.Linear(len(eigenvalues), 1, bias=False)
    d = torch.tensor(eigenvalues)
    return Objective.of_batches(net, lambda x: (d * net.weight[0].square()).sum() / 2, [torch.ones(1)])


@double
def test_of_a_quadratic_all_is_known():
    eigenvalues = [4.0, 1.0, 0.5, -0.5, -2.0]
    with landscape(quadratic(eigenvalues)) as at:
        read = SpectralDensity().read(at).values
    assert read["curvature/lambda_min"] == pytest.approx(-2.0)
    assert read["curvature/condition_number"] == pytest.approx(2.0)
    for key, value in expected(torch.tensor(eigenvalues)).items():
        assert read[f"curvature/{key}"] == pytest.approx(float(value)), key


@double
def test_a_smallest_eigenvalue_of_zero_has_no_condition_number():
    with landscape(quadratic([3.0, 1.0, 0.0, 0.0])) as at:
        reading = SpectralDensity().read(at)
    assert reading.values["curvature/lambda_min"] == pytest.approx(0.0, abs=1e-9)
    assert math.isnan(reading.values["curvature/condition_number"])
    assert any("is 0 within its residual" in note for note in reading.notes)
    assert reading.values["curvature/stable_rank"] == pytest.approx(10 / 9)


@double
def test_what_is_not_finite_is_told():
    objective = quadratic([3.0, 1.0])
    with torch.no_grad():
        objective.params[0].fill_(math.inf)
    with landscape(objective) as at:
        reading = SpectralDensity().read(at)
    assert all(map(math.isnan, reading.values.values()))
    assert "not finite" in reading.notes[0]


def test_a_solve_that_did_not_converge_is_doubtful():
    objective = quadratic([float(i) for i in range(-30, 60)])
    with landscape(objective) as at:
        reading = SpectralDensity(rtol=1e-6, max_products=9).read(at)
    assert "curvature/lambda_min" in reading.doubtful
    assert "did not converge" in reading.doubts[0]
    assert "curvature/trace" not in reading.doubtful


def test_in_a_trainer():
    monitor = CurvatureMonitor([SpectralDensity(probes=2, steps=6)], every_n_steps=2)
    fit(Classifier(), monitor, max_steps=4)
    assert monitor.history["curvature/trace"].steps.tolist() == [0, 2]
    assert monitor.history["curvature/negative_curvature"].values.min() >= 0


@pytest.mark.parametrize(
    "options", [{"probes": 1}, {"steps": 1}, {"bins": 0}, {"rtol": 0}, {"leading": 7}, {"of": "G"}]
)
def test_arguments_are_checked(options):
    with pytest.raises(ValueError, match="is needed"):
        SpectralDensity(**options)
