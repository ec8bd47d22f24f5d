"""Stochastic Lanczos quadrature against matrices whose eigenvalues are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from curvwatch.operators import FunctionOperator
from curvwatch.solvers import stochastic_lanczos

EIGENVALUES = torch.tensor([5.0, 2.0, 1.0, 0.5, 0.0, -0.25, -3.0], dtype=torch.float64)


def operator_of(matrix: torch.Tensor) -> FunctionOperator:
    return FunctionOperator(lambda v: matrix @ v, size=len(matrix), dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def turned(eigenvalues: torch.Tensor, seed: int = 0) -> torch.Tensor:
    n = len(eigenvalues)
    Q = torch.linalg.qr(torch.randn(n, n, generator=seeded(seed), dtype=torch.float64))[0]
    return Q @ torch.diag(eigenvalues) @ Q.T


def test_of_a_diagonal_matrix_all_is_exact() -> None:
    rule = stochastic_lanczos(operator_of(torch.diag(EIGENVALUES)), 3, 20, generator=seeded())
    sizes = EIGENVALUES.abs().numpy()
    p = sizes[sizes > 0] / sizes.sum()
    assert rule.products == 21
    assert rule.trace().value == pytest.approx(5.25)
    assert rule.frobenius_squared().value == pytest.approx(float(EIGENVALUES.square().sum()))
    assert rule.negative_share("count").value == pytest.approx(2 / 7)
    assert rule.negative_share("mass").value == pytest.approx(3.25 / sizes.sum())
    assert rule.effective_rank().value == pytest.approx(math.exp(-(p * np.log(p)).sum()))
    assert rule.trace().stderr == pytest.approx(0.0, abs=1e-12)
    assert rule.nodes[0] == pytest.approx(np.sort(EIGENVALUES.numpy()), abs=1e-12)
    assert rule.end(largest=True)[0] == pytest.approx(5.0)
    assert rule.end(largest=False)[0] == pytest.approx(-3.0)


@pytest.mark.parametrize("steps", [2, 5, 40])
def test_low_moments_are_those_of_the_random_vectors(steps: int) -> None:
    matrix = turned(torch.randn(60, generator=seeded(1), dtype=torch.float64))
    rule = stochastic_lanczos(operator_of(matrix), 4, steps, generator=seeded(2))
    again = seeded(2)
    signs = [
        torch.empty(60, dtype=torch.float64).bernoulli_(generator=again).mul_(2).sub_(1)
        for _ in range(4)
    ]
    assert rule.trace().value == pytest.approx(float(np.mean([float(z @ matrix @ z) for z in signs])))
    squares = [float((matrix @ z).square().sum()) for z in signs]
    assert rule.frobenius_squared().value == pytest.approx(float(np.mean(squares)))
    assert rule.trace().stderr == pytest.approx(
        float(np.std([float(z @ matrix @ z) for z in signs], ddof=1)) / 2
    )
    assert rule.trace().truncation == pytest.approx(0.0, abs=1e-10)


def test_the_density_integrates_to_one_and_has_the_moments() -> None:
    matrix = turned(torch.linspace(-1, 3, 50, dtype=torch.float64))
    rule = stochastic_lanczos(operator_of(matrix), 8, 30, generator=seeded())
    density = rule.density(rule.edges(4000))
    middle = (density.edges[1:] + density.edges[:-1]) / 2
    assert density.weights.sum() == pytest.approx(1.0, abs=1e-6)
    assert 50 * (density.weights * middle).sum() == pytest.approx(rule.trace().value, rel=1e-4)
    second = 50 * (density.weights * middle**2).sum() - 50 * rule.sigma() ** 2
    assert second == pytest.approx(rule.frobenius_squared().value, rel=1e-3)


@pytest.mark.study
def test_errors_fall_with_the_root_of_the_number_of_vectors() -> None:
    matrix = turned(torch.randn(80, generator=seeded(3), dtype=torch.float64).square())
    operator, trace = operator_of(matrix), float(matrix.trace())
    errors, told = [], []
    for count in (4, 64):
        seen = [stochastic_lanczos(operator, count, 3, generator=seeded(i)).trace() for i in range(60)]
        errors.append(math.sqrt(np.mean([(e.value - trace) ** 2 for e in seen])))
        told.append(math.sqrt(np.mean([e.stderr**2 for e in seen])))
    assert math.log(errors[1] / errors[0]) / math.log(16) == pytest.approx(-0.5, abs=0.1)
    assert told == pytest.approx(errors, rel=0.25)


@pytest.mark.parametrize("steps", [3, 6, 12, 30])
def test_a_count_lies_within_its_bound(steps: int) -> None:
    # one vector with the same part of each eigenvalue: no chance, only few steps
    eigenvalues = torch.linspace(-1, 2, 64, dtype=torch.float64)
    rule = stochastic_lanczos(operator_of(torch.diag(eigenvalues)), 1, steps, generator=seeded())
    for place in (-0.5, 0.0, 0.3, 1.9):
        found = rule.negative_share("count", below=place)
        true = float((eigenvalues < place).double().mean())
        assert abs(found.value - true) <= found.truncation + 1e-12
    assert rule.negative_share("count").truncation < 3 / steps


def test_an_operator_that_is_not_symmetric_or_not_finite_is_told() -> None:
    skewed = turned(EIGENVALUES)
    skewed[0, 3] += 1.0
    assert stochastic_lanczos(operator_of(skewed), 1, 6, generator=seeded()).asymmetry > 1e-3
    fine = stochastic_lanczos(operator_of(turned(EIGENVALUES)), 1, 6, generator=seeded())
    assert fine.asymmetry < 1e-12
    assert math.isnan(fine.trace().stderr)
    broken = stochastic_lanczos(operator_of(skewed * math.nan), 2, 6, generator=seeded())
    assert not broken.finite


@pytest.mark.parametrize("options", [{"probes": 0}, {"steps": 0}, {"probes": 1.5}])
def test_arguments_are_checked(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="a positive integer is needed"):
        stochastic_lanczos(operator_of(torch.eye(2)), generator=seeded(), **options)


def test_a_rule_has_the_moments_of_its_vector() -> None:
    a = torch.randn(30, 30, generator=seeded(1), dtype=torch.float64)
    a = a + a.T
    rule = stochastic_lanczos(operator_of(a), 1, 8, generator=seeded(3))
    signs = torch.empty(30, dtype=torch.float64).bernoulli_(generator=seeded(3)) * 2 - 1
    v = signs / math.sqrt(30)
    power = v.clone()
    for degree in range(16):  # exact up to degree 2 steps - 1
        moment = float((rule.weights * rule.nodes**degree).sum())
        assert moment == pytest.approx(float(v @ power), rel=1e-9, abs=1e-9)
        power = a @ power


def test_of_a_zero_matrix_all_is_at_zero() -> None:
    zero = operator_of(torch.zeros(5, 5, dtype=torch.float64))
    rule = stochastic_lanczos(zero, 2, 8, generator=seeded())
    assert not rule.nodes.any()
    assert rule.weights.sum(axis=1) == pytest.approx(1.0)


def test_without_a_vector_the_others_are_left() -> None:
    operator = operator_of(turned(EIGENVALUES))
    rule = stochastic_lanczos(operator, 3, 4, generator=seeded())
    left = rule.without(1)
    assert left.trace().value == pytest.approx(
        7 * float(np.mean([(rule.weights * rule.nodes)[i].sum() for i in (0, 2)]))
    )
    assert len(left.nodes) == 2
