"""Heat maps as numbers: their cells are the densities and values that were read."""

from __future__ import annotations

import math

import numpy as np
import pytest

from curvwatch.charts.heat_maps import (
    DensityAxes,
    HeatMap,
    aligned,
    column_edges,
    density_map,
    evenly_spaced,
    layer_map,
)
from curvwatch.charts.histogram import Histogram

# densities 1, 2 and 0.5
HISTOGRAM = Histogram(np.array([0.0, 0.25, 0.5, 1.5]), np.array([0.25, 0.5, 0.5]))


def bulk_and_outliers(far: float) -> Histogram:
    """Nearly all mass within 0.1 of 0, and an outlier."""
    edges = np.array([-0.1, 0.0, 0.1, far - 0.1, far])
    return Histogram(edges, np.array([0.5, 0.499, 0.0, 0.001]))


def test_rows_inside_a_bin_have_its_density() -> None:
    heat = density_map([HISTOGRAM], rows=6, columns=10)
    np.testing.assert_allclose(heat.edges, np.arange(7) / 4)
    assert heat.linear is None
    np.testing.assert_allclose(heat.cells[:, 0], [1.0, 2.0, 0.5, 0.5, 0.5, 0.5], rtol=1e-14)
    assert (heat.scale, heat.high) == ("log", 2.0)


def test_a_row_that_meets_several_bins_has_the_largest_density() -> None:
    heat = density_map([HISTOGRAM], rows=2, columns=10)
    np.testing.assert_array_equal(heat.edges, [0.0, 0.75, 1.5])
    np.testing.assert_array_equal(heat.cells[:, 0], [2.0, 0.5])
    wider = Histogram(np.array([-3.0, 0.1, 4.0]), np.array([0.31, 0.78]))
    both = density_map([HISTOGRAM, wider], rows=7, columns=10)  # rows of 1
    np.testing.assert_allclose(both.cells[:, 1], [0.1] * 3 + [0.2] * 4)
    # the first has nothing below 0, and above 1.5
    nan = math.nan
    np.testing.assert_allclose(both.cells[:, 0], [nan, nan, nan, 2.0, 0.5, nan, nan])


def test_many_rows_have_together_the_mass_of_the_reading() -> None:
    heat = density_map([HISTOGRAM], rows=600, columns=1)
    assert float(heat.cells[:, 0] @ np.diff(heat.edges)) == pytest.approx(1.25, rel=1e-12)


def test_an_axis_is_in_powers_of_ten_where_outliers_lie_far_from_the_bulk() -> None:
    near = density_map([bulk_and_outliers(0.9)], rows=30, columns=1)
    far = density_map([bulk_and_outliers(100.0)], rows=30, columns=1)
    assert near.linear is None
    assert far.linear == pytest.approx(0.1)
    heights = np.arcsinh(far.edges / 0.1)
    np.testing.assert_allclose(np.diff(heights), np.diff(heights)[0], rtol=1e-9)
    assert far.edges[[0, -1]].tolist() == [-0.1, 100.0]
    assert far.height_of(-0.1) == 0.0
    assert far.height_of(100.0) == 1.0
    # between bulk and outlier there is nothing, and the outlier is seen
    column = far.cells[:, 0]
    seen = ~np.isnan(column)
    assert seen[0]
    assert seen[-1]
    assert not seen.all()
    assert column[-1] == pytest.approx(0.001 / 0.1)
    few = density_map([bulk_and_outliers(100.0)], rows=4, columns=1)
    assert few.cells[-1, 0] == column[-1]


def test_tails_of_gaussians_are_no_eigenvalues_but_small_peaks_are() -> None:
    x = np.linspace(-5, 25, 301)
    middles = (x[1:] + x[:-1]) / 2
    mass = np.exp(-(middles**2) / 0.5) + 1e-7 * np.exp(-((middles - 20) ** 2) / 0.5)
    heat = density_map([Histogram(x, mass)], rows=300, columns=1)
    edges = (heat.edges[1:] + heat.edges[:-1]) / 2
    seen = edges[~np.isnan(heat.cells[:, 0])]
    assert ((seen > 19) & (seen < 21)).any()
    assert not ((seen > 4) & (seen < 19)).any()
    assert seen.min() > -4


def test_one_axis_for_several_densities() -> None:
    other = Histogram(np.array([-8.0, 2.0]), np.array([1.0]))
    axes = DensityAxes.of([HISTOGRAM, other])
    first, second = (density_map([h], rows=5, columns=1, axes=axes) for h in (HISTOGRAM, other))
    np.testing.assert_array_equal(first.edges, second.edges)
    assert (first.low, first.high) == (second.low, second.high) == (axes.floor, 2.0)


def test_of_many_readings_some_are_taken_with_the_first_and_the_last() -> None:
    readings = [Histogram(np.array([0.0, 1.0]), np.array([1.0 + i])) for i in range(7)]
    heat = density_map(readings, rows=1, columns=4)
    assert heat.columns.tolist() == [0, 2, 4, 6]
    assert heat.cells.tolist() == [[1.0, 3.0, 5.0, 7.0]]
    assert evenly_spaced(3, 10).tolist() == [0, 1, 2]
    assert evenly_spaced(10, 1).tolist() == [0]


def test_a_density_without_mass_has_no_colour() -> None:
    heat = density_map([Histogram(np.array([0.0, 1.0]), np.array([0.0]))], rows=2, columns=1)
    assert np.isnan(heat.cells).all()
    assert np.isnan(heat.shades).all()
    with pytest.raises(ValueError, match="at least one reading"):
        density_map([], rows=2, columns=1)


def test_layers_are_rows_with_the_first_at_the_top() -> None:
    values = {"a": np.array([1.0, math.nan, 3.0]), "b": np.array([4.0, 5.0, math.inf])}
    heat = layer_map(values, rows=9, columns=9)
    assert heat.names == ("b", "a")
    np.testing.assert_array_equal(heat.cells, [[4.0, 5.0, math.nan], [1.0, math.nan, 3.0]])
    assert (heat.scale, heat.low, heat.high, heat.is_signed) == ("linear", 1.0, 5.0, False)
    few = layer_map({str(i): np.array([float(i)]) for i in range(9)}, rows=3, columns=1)
    assert few.names == ("8", "4", "0")
    with pytest.raises(ValueError, match="as many of each"):
        layer_map({"a": np.ones(2), "b": np.ones(3)}, rows=2, columns=2)


@pytest.mark.parametrize(
    ("values", "scale", "low", "high"),
    [
        ([1.0, 20.0], "linear", 1.0, 20.0),
        ([1.0, 100.0], "log", 1.0, 100.0),
        ([-1.0, 3.0], "linear", -3.0, 3.0),
        ([-1.0, 1.0, 1.0, 1e4], "asinh", -1e4, 1e4),
        ([0.0, 0.0], "linear", 0.0, 0.0),
        ([math.nan], "linear", 0.0, 0.0),
    ],
)
def test_colours_show_values_that_lie_far_apart(
    values: list[float], scale: str, low: float, high: float
) -> None:
    heat = layer_map({"a": np.array(values)}, rows=1, columns=9)
    assert (heat.scale, heat.low, heat.high) == (scale, low, high)
    shades = heat.shades[0]
    known = ~np.isnan(shades)
    assert ((shades[known] >= 0) & (shades[known] <= 1)).all()
    assert known.tolist() == [not math.isnan(v) for v in values]
    if high > low:
        back = [heat.value_of(shade) for shade in shades]
        np.testing.assert_allclose(back, values, rtol=1e-9)


def test_series_are_aligned_by_their_steps() -> None:
    early = np.array([0, 10]), np.array([1.0, 2.0])
    late = np.array([10, 20, 20]), np.array([3.0, 4.0, 5.0])
    steps, values = aligned({"a": early, "b": late})
    assert steps.tolist() == [0, 10, 20]
    np.testing.assert_array_equal(values["a"], [1.0, 2.0, math.nan])
    np.testing.assert_array_equal(values["b"], [math.nan, 3.0, 5.0])


def test_columns_end_half_way_between_readings() -> None:
    assert column_edges(np.array([0.0, 10.0, 40.0])).tolist() == [-5.0, 5.0, 25.0, 55.0]
    assert column_edges(np.array([3.0])).tolist() == [2.5, 3.5]


@pytest.mark.parametrize(
    ("low", "high", "linear", "ticks"),
    [
        (-1.2, 3.1, None, [-1.0, 0.0, 1.0, 2.0, 3.0]),
        (-0.4, 6.0, 0.08, [-0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]),
        (-2.0, 5000.0, 0.08, [-1.0, -0.1, 0.0, 0.1, 1.0, 10.0, 100.0, 1000.0]),
    ],
)
def test_ticks_are_round_numbers(
    low: float, high: float, linear: float | None, ticks: list[float]
) -> None:
    heat = HeatMap(np.array([0]), np.ones((2, 1)), np.array([low, 0.5, high]), linear=linear)
    np.testing.assert_allclose(heat.ticks, ticks, atol=1e-12)
