"""Eigenvalues that are there several times, and come as often."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from curvwatch.operators import FunctionOperator
from curvwatch.solvers import deflated_lanczos, lanczos
from tests.solvers.test_quadrature import operator_of, seeded, turned

SPECTRA = {
    "equal": [5.0, 5.0, 5.0, 3.0, 3.0, 1.0, 1.0, 0.5] + [0.1] * 12,
    "signs": [2.0, 2.0, 0.0, 0.0] + [-1.0] * 6 + [-50.0] * 4,
    "negative": [-1.0, -1.0, -2.0, -2.0, -2.0, -7.0, -9.0, -9.0],
    "apart": list(np.linspace(4, -4, 40)),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("k", [1, 3, 5])
def test_each_comes_as_often_as_it_is_there(name: str, k: int) -> None:
    values = torch.tensor(SPECTRA[name], dtype=torch.float64)
    matrix = turned(values)
    pairs = deflated_lanczos(operator_of(matrix), k=k, rtol=1e-8, generator=seeded())
    assert pairs.converged
    assert pairs.values == pytest.approx(values[:k].numpy(), abs=1e-7)
    V = pairs.vectors
    torch.testing.assert_close(V @ V.T, torch.eye(k, dtype=V.dtype), atol=1e-6, rtol=0)
    torch.testing.assert_close(V @ matrix, torch.diag(values[:k]) @ V, atol=1e-6, rtol=0)


def test_plain_lanczos_finds_one_alone() -> None:
    matrix = turned(torch.tensor(SPECTRA["equal"], dtype=torch.float64))
    pairs = lanczos(operator_of(matrix), k=3, rtol=1e-8, generator=seeded())
    assert pairs.values[1] != pytest.approx(5.0)


def test_an_eigenvector_that_the_start_has_no_part_of_is_found() -> None:
    diagonal = torch.tensor([9.0, 4.0, 2.0, 1.0, 0.5, 0.1], dtype=torch.float64)
    start = torch.tensor([0.0, 1, 1, 1, 1, 1], dtype=torch.float64)
    operator = operator_of(torch.diag(diagonal))
    pairs = deflated_lanczos(operator, k=2, start=start, generator=seeded())
    assert pairs.values == pytest.approx([9.0, 4.0])


def test_products_are_counted_and_bounded() -> None:
    calls = 0

    def product(v: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return torch.linspace(0, 1, 300, dtype=torch.float64) * v

    operator = FunctionOperator(product, size=300, dtype=torch.float64)
    pairs = deflated_lanczos(operator, k=4, rtol=1e-10, max_products=30, generator=seeded())
    assert pairs.products == calls <= 30 + 10
    assert not pairs.converged


def test_a_small_bound_is_kept_where_each_look_finds_another_one() -> None:
    values = torch.linspace(0, 1, 3000, dtype=torch.float64).sqrt()
    operator = FunctionOperator(lambda v: values * v, size=3000, dtype=torch.float64)
    pairs = deflated_lanczos(operator, k=5, max_products=5, basis=14, generator=seeded())
    assert pairs.products <= 5 + 10
    assert not pairs.converged


def test_the_largest_of_the_rest_is_told() -> None:
    matrix = turned(torch.tensor(SPECTRA["equal"], dtype=torch.float64))
    pairs = deflated_lanczos(operator_of(matrix), k=2, rest=True, rtol=1e-8, generator=seeded())
    assert pairs.values == pytest.approx([5.0, 5.0, 5.0], abs=0.01)
    every = deflated_lanczos(operator_of(matrix), k=len(matrix), rest=True, generator=seeded())
    assert len(every.values) == len(matrix)


def test_the_basis_is_not_kept() -> None:
    matrix = turned(torch.tensor(SPECTRA["apart"], dtype=torch.float64))
    pairs = deflated_lanczos(operator_of(matrix), k=2, generator=seeded())
    assert pairs.vectors.untyped_storage().nbytes() == 2 * 8 * len(matrix)
