"""Extreme eigenpairs against diagonal and dense twins."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from curvwatch.operators import FunctionOperator, Scaled
from curvwatch.solvers import lanczos


def diagonal(values, dtype=torch.float64):
    d = torch.tensor(values, dtype=dtype)
    return FunctionOperator(lambda v: d * v, size=len(d), dtype=dtype)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


SPECTRUM = [-5.0, 3.0, 1.0, 0.5, -1.0, *[0.01 * i for i in range(40)]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("largest", "value"), [(True, 3.0), (False, -5.0)])
def test_algebraic_ends_not_magnitudes(largest, value, dtype):
    pairs = lanczos(diagonal(SPECTRUM, dtype), largest=largest, rtol=1e-6, generator=seeded())
    assert pairs.converged
    assert pairs.values[0] == pytest.approx(value, rel=1e-5)
    index = SPECTRUM.index(value)
    assert abs(float(pairs.vectors[0, index])) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("basis", [6, 12, 60])
def test_a_small_basis_is_restarted_and_finds_the_same(basis):
    g = seeded(1)
    A = torch.randn(60, 60, dtype=torch.float64, generator=g)
    A = A + A.T
    operator = FunctionOperator(lambda v: A @ v, size=60, dtype=torch.float64)
    pairs = lanczos(
        operator, k=2, also=1, rtol=1e-9, basis=basis, max_products=2000, generator=seeded()
    )
    exact = np.linalg.eigvalsh(A.numpy())[::-1]
    assert pairs.converged
    np.testing.assert_allclose(pairs.values[:2], exact[:2], rtol=1e-10)
    assert len(pairs.values) == 3
    gram = pairs.vectors @ pairs.vectors.T
    torch.testing.assert_close(gram, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-8)


def test_the_residual_is_the_true_one_and_bounds_the_error():
    for seed in range(30):
        g = seeded(seed)
        A = torch.randn(40, 40, dtype=torch.float64, generator=g)
        A = A + A.T
        operator = FunctionOperator(lambda v, A=A: A @ v, size=40, dtype=torch.float64)
        pairs = lanczos(operator, also=1, rtol=1e-2, basis=8, generator=g)
        exact = np.linalg.eigvalsh(A.numpy())
        for i, value in enumerate(pairs.values):
            v = pairs.vectors[i]
            assert pairs.residuals[i] == pytest.approx(float((A @ v - value * v).norm()), rel=1e-6)
            assert np.abs(exact - value).min() <= pairs.residuals[i] * (1 + 1e-9)


def test_the_error_meets_the_tolerance_on_spectra_like_those_of_networks():
    errors, products = [], []
    for seed in range(100):
        g = seeded(seed)
        d = 0.05 * torch.randn(1000, generator=g, dtype=torch.float64).abs()
        d[:10] = 3 * torch.rand(10, generator=g, dtype=torch.float64)
        operator = FunctionOperator(lambda v, d=d: d * v, size=1000, dtype=torch.float64)
        pairs = lanczos(operator, generator=g)
        errors.append(abs(pairs.values[0] - float(d.max())) / float(d.max()))
        products.append(pairs.products)
    assert np.quantile(errors, 0.95) < 1e-6
    assert max(errors) < 1e-2
    assert np.mean(products) < 14


def test_a_warm_start_costs_less():
    operator = diagonal(SPECTRUM)
    cold = lanczos(operator, rtol=1e-8, generator=seeded())
    start = cold.vectors[0] + 0.01 * torch.randn(45, dtype=torch.float64, generator=seeded())
    warm = lanczos(operator, rtol=1e-8, start=start)
    assert warm.values[0] == pytest.approx(3.0, rel=1e-12)
    assert warm.products < cold.products


@pytest.mark.parametrize("size", [1, 2, 3])
def test_tiny_and_degenerate_operators(size):
    zero = lanczos(FunctionOperator(lambda v: 0 * v, size=size), generator=seeded())
    assert (zero.values[0], zero.converged) == (0.0, True)
    same = lanczos(FunctionOperator(lambda v: -2 * v, size=size), k=size, generator=seeded())
    np.testing.assert_allclose(same.values, -2.0, rtol=1e-6)


def test_products_run_out_and_say_so():
    pairs = lanczos(diagonal(SPECTRUM), rtol=1e-12, max_products=3, generator=seeded())
    assert (pairs.converged, pairs.products) == (False, 3)
    assert np.isfinite(pairs.values[0])


def test_products_that_are_not_finite_give_nan():
    pairs = lanczos(FunctionOperator(lambda v: v * torch.nan, size=4), generator=seeded())
    assert not pairs.converged
    assert np.isnan(pairs.values).all()
    assert np.isnan(pairs.residuals).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"k": 0}, "k=0"), ({"k": 9}, "k=9"), ({"rtol": 0.0}, "rtol"), ({"max_products": 0}, "max")],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        lanczos(diagonal([1.0, 2.0]), **options)


def test_scaled_operator_has_the_preconditioned_spectrum():
    g = seeded(3)
    A = torch.randn(30, 30, dtype=torch.float64, generator=g)
    A = A + A.T
    P = 0.1 + torch.rand(30, dtype=torch.float64, generator=g)
    c = torch.rand(30, dtype=torch.float64, generator=g)
    operator = FunctionOperator(lambda v: A @ v, size=30, dtype=torch.float64)
    for sign in (1.0, -1.0):
        scaled = Scaled(operator, P.rsqrt(), shift=c, sign=sign)
        exact = np.linalg.eigvals(((sign * A + torch.diag(c)) / P[:, None]).numpy()).real.max()
        assert lanczos(scaled, rtol=1e-9, generator=g).values[0] == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("basis", [6, 40])
def test_an_operator_that_is_not_symmetric_is_noticed(basis):
    g = seeded(5)
    A = torch.randn(40, 40, dtype=torch.float64, generator=g)
    options = {"rtol": 1e-9, "basis": basis, "generator": g}

    def asymmetry(B):
        operator = FunctionOperator(lambda v: B @ v, size=40, dtype=torch.float64)
        return lanczos(operator, **options).asymmetry

    assert asymmetry(A + A.T) < 1e-12
    assert asymmetry(A + A.T + 0.5 * (A - A.T)) > 0.05


@pytest.mark.parametrize("far", [-1e3, -1e4, -1e5, -1e6])
@pytest.mark.parametrize("seed", range(5))
def test_a_value_that_rounding_swallows_has_a_residual_of_that_size(far, seed):
    spectrum = [far, 0.01, 0.005, 0.001]
    pairs = lanczos(diagonal(spectrum, torch.float32), generator=seeded(seed))
    error = abs(pairs.values[0] - 0.01)
    assert error <= 64 * pairs.residuals[0]
    assert pairs.residuals[0] > 0.9 * abs(far) * torch.finfo(torch.float32).eps
    exact = lanczos(diagonal(spectrum), generator=seeded(seed))  # float64 has room
    assert exact.values[0] == pytest.approx(0.01, rel=1e-6)


def test_vectors_do_not_point_away_from_the_start():
    for seed in range(5):
        start = torch.randn(45, dtype=torch.float64, generator=seeded(seed))
        pairs = lanczos(diagonal(SPECTRUM), also=3, start=start, rtol=1e-9, basis=8)
        assert bool((pairs.vectors @ start > 0).all())


def test_no_fewer_products_are_spent_than_asked_for():
    eigenvector = torch.eye(45, dtype=torch.float64)[1]
    g = seeded()
    start = eigenvector + 1e-3 * torch.randn(45, dtype=torch.float64, generator=g)
    assert lanczos(diagonal(SPECTRUM), start=start, rtol=0.1).products == 1
    assert lanczos(diagonal(SPECTRUM), start=start, rtol=0.1, min_products=4).products == 4
