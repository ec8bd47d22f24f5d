"""Models whose Hessian is known by a formula: every measure of a matrix reads it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from curvwatch import Objective
from curvwatch.measures import (
    Fisher,
    GaussNewton,
    LayerCurvature,
    Sharpness,
    SpectralDensity,
    StationaryPoint,
    TopEigenvalues,
)
from tests.measures.points import landscape

pytestmark = pytest.mark.usefixtures("double_precision")
N, D, C = 20, 5, 4


def linear():
    """Mean squared error of one output: 2 X'X / n."""
    model, x = nn.Linear(D, 1, bias=False), torch.randn(N, D)
    y = torch.randn(N, 1)
    return model, lambda b: F.mse_loss(model(b), y), x, 2 * x.T @ x / N


def logistic():
    """X' diag(p (1 - p)) X / n, p the probability of class 1."""
    model, x = nn.Linear(D, 1, bias=False), torch.randn(N, D)
    y = torch.randint(0, 2, (N, 1)).double()
    p = torch.sigmoid(model(x)).detach()
    H = x.T @ (p * (1 - p) * x) / N
    return model, lambda b: F.binary_cross_entropy_with_logits(model(b), y), x, H


def softmax():
    """Mean over examples of (diag(p) - p p') kron x x'."""
    model, x = nn.Linear(D, C, bias=False), torch.randn(N, D)
    y = torch.randint(0, C, (N,))
    p = model(x).softmax(1).detach()
    H = sum(torch.kron(q.diag() - q.outer(q), z.outer(z)) for q, z in zip(p, x, strict=True)) / N
    return model, lambda b: F.cross_entropy(model(b), y), x, H


def quadratic():
    """Half w'Aw of an indefinite A: no outputs, so neither Gauss-Newton nor Fisher."""
    model = nn.Linear(D, 1, bias=False)
    A = torch.randn(D, D)
    A = A + A.T
    return model, lambda b: model.weight[0] @ A @ model.weight[0] / 2 * b[0, 0], torch.ones(1, 1), A


MODELS = {
    "linear": linear,
    "logistic": logistic,
    "softmax": softmax,
    "quadratic": quadratic,
}


@pytest.mark.parametrize("name", MODELS)
def test_every_measure_of_a_matrix_reads_the_formula(name):
    torch.manual_seed(3)
    model, loss, x, H = MODELS[name]()
    eigenvalues = torch.linalg.eigvalsh(H)
    top, low = float(eigenvalues[-1]), float(eigenvalues[0])
    read = {}
    with landscape(Objective.of_batches(model, loss, [x])) as at:
        for measure in (
            Sharpness(),
            TopEigenvalues(3, rtol=1e-8),
            SpectralDensity(probes=64, steps=30, leading=0, rtol=1e-6),
            LayerCurvature(probes=64, rtol=1e-6),
            StationaryPoint(rtol=1e-6),
        ):
            read.update(measure.read(at).values)
    assert read["curvature/sharpness"] == pytest.approx(top, rel=1e-9)
    for i in range(3):
        assert read[f"curvature/eigenvalue/{i}"] == pytest.approx(float(eigenvalues[-1 - i]), rel=1e-7)
    assert read["curvature/lambda_min"] == pytest.approx(
        low, abs=read["curvature/lambda_min_residual"] + 1e-9
    )
    for key, value, error in (
        ("curvature/trace", float(H.trace()), "curvature/trace_error"),
        ("curvature/frobenius", float(H.norm()), "curvature/frobenius_error"),
        ("curvature/layer/weight/trace", float(H.trace()), "curvature/layer/weight/trace_stderr"),
    ):
        assert abs(read[key] - value) <= 4 * read[error] + 1e-9, key
        assert read[error] < 0.2 * float(H.norm()), key
    assert read["curvature/layer/weight/sharpness"] == pytest.approx(top, rel=1e-6)
    index = float((eigenvalues < -0.05 * eigenvalues.abs().max()).double().mean())
    assert read["curvature/index_share"] == pytest.approx(index, abs=0.35)
    if name != "quadratic":
        assert index == 0.0


@pytest.mark.parametrize("name", ["linear", "logistic", "softmax"])
def test_of_a_linear_model_gauss_newton_and_fisher_are_the_hessian(name):
    torch.manual_seed(3)
    model, loss, x, H = MODELS[name]()
    top = float(torch.linalg.eigvalsh(H)[-1])
    with landscape(Objective.of_batches(model, loss, [x])) as at:
        G = GaussNewton(probes=64, rtol=1e-8).read(at).values
        F_ = Fisher("type1", probes=64, rtol=1e-8).read(at).values
    assert G["gauss_newton/lambda_max"] == pytest.approx(top, rel=1e-8)
    assert G["gauss_newton/distance"] < 1e-9
    assert abs(G["gauss_newton/rest_lambda_max"]) < 1e-9
    assert F_["fisher/lambda_max"] == pytest.approx(top, rel=1e-8)
    assert F_["fisher/cosine"] == pytest.approx(1.0, abs=1e-9)
    assert F_["fisher/overlap"] == pytest.approx(1.0, abs=1e-6)
    for values, key in ((G, "gauss_newton/trace"), (F_, "fisher/trace")):
        assert abs(values[key] - float(H.trace())) <= 4 * values[f"{key}_stderr"] + 1e-9
        assert math.isfinite(values[f"{key}_stderr"])
