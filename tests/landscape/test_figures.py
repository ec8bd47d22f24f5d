"""Figures: what is drawn, and that holes are holes."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

from curvwatch.charts.figures import is_logarithmic
from curvwatch.landscape import FunctionSurface, plane, slice_1d, slice_2d, trajectory
from curvwatch.landscape.slices.surface_figure import log_ticks
from tests.landscape.surfaces import Bowl
from tests.support.studies import only

AXES = torch.eye(2, dtype=torch.float64)


def surface_from(f):
    return FunctionSurface(f, torch.zeros(2, dtype=torch.float64))


def drawn(figure):
    """The figure's pixels, shape (height, width, 3), first row at the top."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def pixels_at(figure, axes, x, y, radius=8):
    image = drawn(figure)
    across, up = axes.transData.transform((x, y)).astype(int)
    row = image.shape[0] - up
    return image[row - radius : row + radius, across - radius : across + radius].reshape(-1, 3)


def is_grey(pixels):
    return np.ptp(pixels, axis=1) < 12


def texts(figure):
    return [t.get_text() for legend in figure.legends for t in legend.get_texts()]


def note(figure):
    return figure._supxlabel.get_text()


def cut(w):
    """Not finite outside of a circle, one way and the other."""
    r = (w**2).sum()
    return r + 1 if r < 0.8 else r * (torch.inf if w[0] > 0 else torch.nan)


@pytest.mark.parametrize("corner", [(-0.9, 0.9), (0.9, -0.9)], ids=["nan", "inf"])
def test_contours_have_holes_where_the_loss_is_not_finite(corner):
    found = slice_2d(surface_from(cut), list(AXES), points=11)
    figure = found.plot()
    axes = figure.axes[0]
    hole = pixels_at(figure, axes, *corner)
    assert is_grey(hole).all()
    assert len(np.unique(hole, axis=0)) > 1  # hatched
    assert not is_grey(pixels_at(figure, axes, 0.4, 0.4)).any()
    count = (~np.isfinite(found.losses)).sum()
    assert 0 < count < 121
    assert f"nan or inf, {count} of 121 points" in texts(figure)


def test_a_surface_leaves_out_what_is_not_finite():
    found = slice_2d(surface_from(cut), list(AXES), points=11)
    figure = found.plot(kind="surface")
    (collection,) = [c for c in figure.axes[0].collections if isinstance(c, Poly3DCollection)]
    finite = np.isfinite(found.losses)
    whole = finite[1:, 1:] & finite[:-1, 1:] & finite[1:, :-1] & finite[:-1, :-1]
    assert len(collection.get_facecolors()) == whole.sum()
    # no swatch of a hatch: in space there is none
    assert texts(figure) == ["start"]
    assert f"nan or inf, {(~finite).sum()} of 121 points" in note(figure)
    drawn(figure)
    # without holes nothing is said of them
    whole = slice_2d(surface_from(lambda w: w.sum()), list(AXES), points=3).plot("surface")
    assert whole._supxlabel is None


def test_a_line_has_hatched_gaps():
    line = slice_1d(surface_from(cut), AXES[0], points=11)
    figure = line.plot()
    (axes,) = figure.axes
    drawn(figure)
    curve = axes.lines[0].get_ydata()
    assert np.isfinite(curve).tolist() == np.isfinite(line.losses).tolist()
    spans = [(p.get_x(), p.get_x() + p.get_width()) for p in axes.patches if p.get_hatch()]
    assert np.array(spans) == pytest.approx(np.array([(-1.0, -0.9), (0.9, 1.0)]))
    assert "nan or inf, 2 of 11 points" in [t.get_text() for t in axes.get_legend().get_texts()]


@pytest.mark.parametrize("value", [3.0, 0.0, 1e30])
def test_a_constant_surface_draws_without_warnings(value):
    flat = surface_from(lambda w: 0 * w.sum() + value)
    found = slice_2d(flat, list(AXES), points=3)
    figure = found.plot()
    drawn(figure)
    assert f"constant loss, {value:.4g}" in texts(figure)
    drawn(found.plot("surface"))
    drawn(slice_1d(flat, AXES[0], points=3).plot())


@pytest.mark.parametrize("losses", [np.nan, np.inf, [[np.nan, 2.0, np.nan]] * 3])
def test_next_to_nothing_draws_without_warnings(losses):
    found = slice_2d(surface_from(lambda w: w.sum()), list(AXES), points=3)
    empty = replace(found, losses=np.broadcast_to(losses, (3, 3)).copy())
    missing = int((~np.isfinite(empty.losses)).sum())
    for kind in ("contour", "surface"):
        figure = empty.plot(kind)
        drawn(figure)
        told = texts(figure) if kind == "contour" else [note(figure)]
        assert any(f"nan or inf, {missing} of 9 points" in text for text in told)
    line = slice_1d(surface_from(lambda w: w.sum()), AXES[0], points=3)
    drawn(replace(line, losses=np.broadcast_to(np.ravel(losses)[:1], 3).copy()).plot())


def test_levels_are_logarithmic_where_positive_losses_span_more_than_two_decades():
    assert is_logarithmic(np.array([1.0, np.nan, 101.0, np.inf]))
    assert not is_logarithmic(np.array([1.0, 99.0]))
    assert not is_logarithmic(np.array([0.0, 1e9]))
    assert not is_logarithmic(np.array([-1.0, 1e9]))
    assert not is_logarithmic(np.array([np.nan]))
    steep = slice_2d(surface_from(lambda w: (6 * w.sum()).exp()), list(AXES), points=5)
    figure = steep.plot()
    levels = figure.axes[0].collections[0].levels
    np.testing.assert_allclose(np.diff(np.log(levels)), 24 / 24, rtol=1e-9)
    drawn(figure)
    drawn(steep.plot("surface"))
    gentle = slice_2d(surface_from(lambda w: w.sum()), list(AXES), points=5)
    np.testing.assert_allclose(np.diff(gentle.plot().axes[0].collections[0].levels), 4 / 24)
    assert (
        slice_1d(surface_from(lambda w: (6 * w.sum()).exp()), AXES[0], points=5)
        .plot()
        .axes[0]
        .get_yscale()
        == "log"
    )


def test_checkpoints_are_drawn_where_they_are_and_a_path_is_joined():
    surface = Bowl.drawn().surface()
    points = list(torch.randn(4, 13, dtype=torch.float64).cumsum(0))
    way = trajectory(surface, points, points=5, names=["one", "two", "three", "cost $5$"])
    figure = way.plot()
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), way.coordinates)
    assert [t.get_text().split("\n")[0] for t in axes.texts] == ["one", r"cost \$5\$"]
    assert f"{way.explained[1]:.1%} of the variance" in axes.get_ylabel()
    assert "away from this plane" in figure._supxlabel.get_text()
    drawn(figure)
    three = plane(surface, points[:3], points=5).plot()
    assert [t.get_text().split("\n")[0] for t in three.axes[0].texts] == [
        "point 1",
        "point 2",
        "point 3",
    ]
    assert three._supxlabel is None


def test_a_surface_has_the_points_at_their_own_losses_or_the_start():
    surface = Bowl.drawn().surface()
    points = list(torch.randn(4, 13, dtype=torch.float64).cumsum(0))
    way = trajectory(surface, points, points=5, names=["one", "two", "three", "four"])
    figure = way.plot("surface")
    (axes,) = figure.axes
    (line,) = axes.lines
    x, y, z = line.get_data_3d()
    np.testing.assert_allclose(np.stack([x, y], axis=1), way.coordinates)
    np.testing.assert_allclose(z, way.point_losses)
    low, high = axes.get_zlim()
    assert low <= z.min() < z.max() <= high
    assert [t.get_text().split("\n")[0].strip() for t in axes.texts] == ["one", "four"]
    assert "they are drawn at their own losses" in note(figure)
    drawn(figure)
    # a point without a loss has no height, and no name
    for losses, told in (([1.0, 2.0, 3.0, np.nan], ["one"]), ([np.nan] * 4, [])):
        partly = replace(way, point_losses=np.array(losses)).plot("surface")
        assert [t.get_text().split("\n")[0].strip() for t in partly.axes[0].texts] == told
        drawn(partly)
    plain = slice_2d(surface_from(lambda w: (w**2).sum() + 2), list(AXES), points=3).plot("surface")
    (star,) = plain.axes[0].lines
    assert [float(v[0]) for v in star.get_data_3d()] == [0.0, 0.0, 2.0]
    steep = slice_2d(surface_from(lambda w: (6 * w.sum()).exp()), list(AXES), points=5)
    (star,) = steep.plot("surface").axes[0].lines
    assert float(star.get_data_3d()[2][0]) == 0.0  # its logarithm


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.03, 4.0, [0.05, 0.1, 0.2, 0.5, 1, 2]),
        (0.02, 60.0, [0.03, 0.1, 0.3, 1, 3, 10, 30]),
        (0.01, 1e4, [0.01, 0.1, 1, 10, 100, 1000, 1e4]),
        (1e-30, 1e2, [1e-30, 1e-26, 1e-22, 1e-18, 1e-14, 1e-10, 1e-6, 1e-2, 1e2]),
    ],
)
def test_ticks_of_a_logarithmic_height_are_round(low, high, ticks):
    np.testing.assert_allclose(log_ticks(low, high), ticks, rtol=1e-12)
    values = torch.tensor([low, high], dtype=torch.float64).log()

    def between(w):
        return torch.lerp(values[0], values[1], (w[0] + 1) / 2).exp()

    found = slice_2d(surface_from(between), list(AXES), points=3)
    figure = found.plot("surface")
    drawn(figure)
    (axes,) = figure.axes
    shown = log_ticks(found.losses.min(), found.losses.max())  # less by rounding at most
    assert [t.get_text() for t in axes.get_zticklabels()] == [f"{t:.3g}" for t in shown]
    np.testing.assert_allclose(10.0 ** axes.get_zticks(), shown)


# where a path comes from, as seen from its end
@pytest.mark.parametrize("turned", only(range(8), take=[0, 1, 4, 7]))
def test_labels_are_beside_their_points_and_clear_of_the_path(turned):
    angle = np.pi * turned / 4
    out = np.array([[np.cos(angle), np.sin(angle)]]) * np.linspace(2, 0, 6)[:, None]
    out[1:-1] += 0.1
    found = slice_2d(surface_from(lambda w: w.sum()), list(AXES), points=3, distance=3.0)
    way = replace(
        found,
        coordinates=out,
        point_losses=np.ones(6),
        off_slice=np.zeros(6),
        point_names=tuple(f"step-00000{i}" for i in range(6)),
        path=True,
    )
    figure = way.plot()
    drawn(figure)
    axes = figure.axes[0]
    share = np.linspace(0, 1, 30)[:, None]
    line = np.concatenate([a + share * (b - a) for a, b in itertools.pairwise(out)])
    boxes = [words.get_window_extent() for words in axes.texts]
    assert len(boxes) == 2
    assert not boxes[0].overlaps(boxes[1])
    for box, point in zip(boxes, (out[0], out[-1]), strict=True):
        assert not any(box.contains(*at) for at in axes.transData.transform(line))
        x, y = axes.transData.transform(point)
        away = np.hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1))
        assert away < 12 * figure.dpi / 72
        assert axes.bbox.x0 <= box.x0 < box.x1 <= axes.bbox.x1
        assert axes.bbox.y0 <= box.y0 < box.y1 <= axes.bbox.y1


def test_distances_are_true_and_labels_inside():
    surface = Bowl.drawn().surface()
    for found in (
        plane(surface, list(torch.randn(3, 13, dtype=torch.float64)), points=5),
        slice_2d(surface, points=5),
    ):
        figure = found.plot()
        drawn(figure)
        axes = figure.axes[0]
        scale = axes.transData.transform([(0, 0), (1, 0), (0, 1)])
        across, up = scale[1][0] - scale[0][0], scale[2][1] - scale[0][1]
        assert across == pytest.approx(up, rel=1e-6)
        box = figure.bbox
        for artist in (axes.xaxis.label, axes.yaxis.label, axes.title, figure.axes[1].yaxis.label):
            extent = artist.get_window_extent()
            assert extent.x0 >= 0
            assert extent.y0 >= 0
            assert extent.x1 <= box.x1
            assert extent.y1 <= box.y1


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    found = slice_1d(surface_from(lambda w: w.sum()), AXES[0], points=3)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"curvwatch\[report\]"):
        found.plot()
