"""Heat maps, bands and layers in the report and the terminal, from runs with known values."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from curvwatch import History
from curvwatch.charts import CHARTS, DENSITY
from curvwatch.charts.heat_maps import layer_map
from curvwatch.charts.histogram import Histogram
from curvwatch.report.heat_maps import COLUMNS, FEWEST_COLUMNS, ROWS, heat_maps_of
from curvwatch.report.html import write_report
from curvwatch.report.html.cells import SHADES, heat_payload
from curvwatch.report.html.payload import payload
from curvwatch.report.logs import LoggedDensity, LoggedRun, find_runs, read_run, read_runs
from curvwatch.report.logs.log import make_histogram
from curvwatch.report.run_charts import MOST_LAYERS, charts_of, errors_around, lines_of
from curvwatch.report.sections import sections_of
from curvwatch.report.terminal import show
from tests.report.synthetic import run

EDGES = np.array([0.0, 1.0, 2.0, 4.0])
WEIGHTS = np.array([0.9, 0.09, 0.01])


def with_density(
    name: str = "a",
    readings: int = 3,
    values: Mapping[str, object] | None = None,
    metric: str = DENSITY,
) -> LoggedRun:
    """A run with a density that is the same at steps 0, 10, 20, ..."""
    made = run(name, values or {"curvature/loss": np.arange(1.0, readings + 1)})
    steps = np.arange(readings) * 10
    density = LoggedDensity(steps, (Histogram(EDGES, WEIGHTS),) * readings, steps * 0.01, steps / 100)
    return replace(made, densities={metric: density})


def with_layers(count: int, name: str = "a", metric: str = "curvature/layer/{}/sharpness") -> LoggedRun:
    """Layers net.0, net.1, ... with the value of their number + 1, logged in this order."""
    values = {metric.format(f"net.{i}"): np.full(4, i + 1.0) for i in range(count)}
    made = run(name, values)
    # as TensorBoard's reader gives them: by the length of their names, each later than the last
    late = {n: replace(c, times=c.times + 1e-5 * i) for i, (n, c) in enumerate(made.curves.items())}
    return replace(made, curves=dict(sorted(late.items(), key=lambda item: (len(item[0]), item[0]))))


def page(tmp_path: Path, runs: list[LoggedRun], **options: Any) -> str:
    write_report(runs, tmp_path / "r.html", **options)
    return (tmp_path / "r.html").read_text(encoding="utf-8")


def drawn(text: str) -> dict[str, Any]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert found
    told: dict[str, Any] = json.loads(found[1])
    return told


def titles(text: str) -> list[str]:
    return re.findall(r"<h2[^>]*>(.*?)</h2>", text)


# densities in the report


def test_the_report_draws_the_density_that_was_read(tmp_path: Path) -> None:
    text = page(tmp_path, [with_density()])
    assert titles(text) == [
        "loss on the probe",
        "Spectrum",
        "density of the eigenvalues of the Hessian",
    ]
    (heat,) = drawn(text)["heats"]
    assert (heat["run"], heat["rows"], heat["names"], heat["linear"]) == (0, ROWS, None, None)
    assert heat["x"] == [-5, 5, 15, 25]
    assert (heat["low"], heat["high"]) == (0, 4)
    assert heat["ticks"] == [[0, "0"], [0.25, "1"], [0.5, "2"], [0.75, "3"], [1, "4"]]
    # from the floor, a third of the lowest peak, to the largest, in powers of ten
    colours = heat["colours"]
    low, high = colours["low"], colours["high"]
    assert (low, high, colours["scale"]) == (pytest.approx(0.9e-3), 0.9, "log")
    densities = WEIGHTS / np.diff(EDGES)
    shades = np.log10(densities / low) / math.log10(high / low)
    letters = [SHADES[round(63 * shade)] for shade in shades]
    column = letters[0] * (ROWS // 4) + letters[1] * (ROWS // 4) + letters[2] * (ROWS // 2)
    assert heat["cells"] == 3 * column


@pytest.mark.parametrize(
    ("x", "edges"),
    [
        ("step", [-5, 5, 15, 25]),
        ("time", [-0.05, 0.05, 0.15, 0.25]),
        ("epoch", [-0.05, 0.05, 0.15, 0.25]),
    ],
)
def test_columns_lie_where_their_readings_were(x: str, edges: list[float]) -> None:
    ((heat,), _) = heat_maps_of([with_density()], [])
    assert heat_payload(heat, x)["x"] == pytest.approx(edges)


def test_readings_without_a_place_or_with_the_same_are_left_out() -> None:
    made = with_density()
    epochs = replace(made.densities[DENSITY], epochs=np.array([0.0, 0.0, 1.0]))
    blind = replace(made.densities[DENSITY], epochs=np.full(3, np.nan))
    told = [
        heat_payload(heat_maps_of([replace(made, densities={DENSITY: of})], [])[0][0], "epoch")
        for of in (epochs, blind)
    ]
    assert told[0]["x"] == [-0.5, 0.5, 1.5]
    assert len(told[0]["cells"]) == 2 * ROWS
    assert (told[1]["x"], told[1]["cells"]) == ([], "")


def test_heat_maps_stay_small(tmp_path: Path) -> None:
    one = page(tmp_path, [with_density(readings=3000)])
    (heat,) = drawn(one)["heats"]
    assert len(heat["cells"]) == COLUMNS * ROWS
    assert heat["x"][0] < 0
    assert heat["x"][-1] > 29990
    many = [with_density(f"{i}", readings=30) for i in range(140)]
    heats, left_out = heat_maps_of(many, [])
    assert left_out == 10
    assert {len(h.map.columns) for h in heats} == {FEWEST_COLUMNS}
    text = page(tmp_path, many)
    assert "10 further heat maps are left out" in text
    assert sum(len(h["cells"]) for h in drawn(text)["heats"]) <= 250_000
    assert "further heat maps" not in one


def test_densities_of_layers_have_one_axis_and_come_last(tmp_path: Path) -> None:
    made = with_density(metric="curvature/layer/net.0/density")
    wide = LoggedDensity(
        np.array([0]), (Histogram(EDGES * 2, WEIGHTS),), np.array([0.0]), np.array([0.0])
    )
    for i in range(1, 20):
        made = replace(made, densities={**made.densities, f"curvature/layer/net.{i}/density": wide})
    heats, _ = heat_maps_of([made], [])
    assert len(heats) == 12
    assert {h.map.edges[-1] for h in heats} == {8.0}
    assert heats[0].title == "density of the eigenvalues of net.0"
    assert "12 of 20 layers are shown" in heats[0].how
    assert "Densities of the layers" in titles(page(tmp_path, [made]))


# layers


def test_few_layers_are_lines_in_their_order() -> None:
    made = with_layers(11)
    (panel,) = charts_of([made])
    lines = lines_of(made, panel)
    assert [line.label for line in lines] == [f"net.{i}" for i in range(11)]
    assert [line.depth for line in lines] == pytest.approx(np.linspace(0, 1, 11))
    told = payload([made], [panel], "step")["panels"][0]["lines"]
    assert told[5]["depth"] == 0.5
    assert sections_of([made])[0][0].heat_maps == []


def test_layers_are_in_the_order_in_which_they_were_logged() -> None:
    made = run("a", {f"curvature/layer/{n}/share": [1.0, 2.0] for n in ("stem", "body", "head")})
    late = {n: replace(c, times=c.times + 1e-5 * i) for i, (n, c) in enumerate(made.curves.items())}
    made = replace(made, curves=dict(sorted(late.items())))
    labels = [line.label for line in lines_of(made, charts_of([made])[0])]
    assert labels == ["stem", "body", "head"]


def test_layers_of_a_table_are_in_the_order_of_their_numbers() -> None:
    made = with_layers(11)
    table = {n: replace(c, times=c.times * np.nan) for n, c in sorted(made.curves.items())}
    (panel,) = charts_of([made])
    labels = [line.label for line in lines_of(replace(made, curves=table), panel)]
    assert labels == [f"net.{i}" for i in range(11)]


def test_many_layers_are_rows_of_a_heat_map(tmp_path: Path) -> None:
    count = MOST_LAYERS + 1
    runs = [with_layers(count), with_layers(2, "b")]
    text = page(tmp_path, runs)
    assert titles(text) == ["Layers", "sharpness of each layer", "sharpness of each layer"]
    assert drawn(text)["panels"] == []
    first, second = drawn(text)["heats"]
    assert first["names"] == [f"net.{i}" for i in reversed(range(count))]
    assert (first["rows"], second["rows"]) == (count, 2)
    # as TensorBoard's lines, of which the last layer has the largest value
    assert first["colours"]["low"] == 1
    assert first["colours"]["high"] == count
    expected = [SHADES[round(63 * (i / (count - 1)))] for i in reversed(range(count))]
    assert first["cells"] == "".join(expected) * 4
    assert first["ticks"][-1] == [pytest.approx((count - 0.5) / count, abs=1e-4), "net.0"]


def test_very_many_layers_are_told_to_be_left_out() -> None:
    panel = charts_of([with_layers(200)])[0]
    ((heat,), _) = heat_maps_of([with_layers(200)], [panel])
    assert len(heat.map.names) == ROWS
    assert heat.map.names[-1] == "net.0"
    assert f"{ROWS} of 200 layers have a row" in heat.how
    assert len(heat_payload(heat, "step")["ticks"]) <= 20


def test_missing_values_of_layers_are_blank() -> None:
    made = with_layers(13)
    name = "curvature/layer/net.3/sharpness"
    holes = replace(made.curves[name], values=np.array([1.0, np.nan, 2.0, np.nan]))
    made = replace(made, curves={**made.curves, name: holes})
    ((heat,), _) = heat_maps_of([made], charts_of([made]))
    row = [heat_payload(heat, "step")["cells"][13 * column + 9] for column in range(4)]
    assert [letter == " " for letter in row] == [False, True, False, True]


def test_names_of_layers_are_escaped(tmp_path: Path) -> None:
    nasty = "<img src=x>\x1b\u202e{}"
    text = page(tmp_path, [with_layers(13, metric="curvature/layer/" + nasty + "/sharpness")])
    assert "<img" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text


# bands


def test_errors_are_bands_around_their_lines() -> None:
    values = {
        "fisher/trace": [4.0, 8.0, 16.0],
        "fisher/trace_stderr": [1.0, np.nan, 2.0],
        "curvature/trace": [1.0, 2.0, 3.0],
    }
    made = run("a", values)
    errors = errors_around(made, "fisher/trace")
    assert errors is not None
    np.testing.assert_array_equal(errors, [2.0, np.nan, 4.0])
    assert errors_around(made, "curvature/trace") is None
    panel = CHARTS["traces of Hessian, Gauss-Newton and Fisher"]
    hessian, fisher = payload([made], [panel], "step")["panels"][0]["lines"]
    assert "error" not in hessian
    assert fisher["error"] == [2, None, 4]
    assert (hessian["label"], fisher["label"], fisher["which"]) == ("H", "Fisher F", 2)


def test_an_error_that_was_read_at_other_steps_is_not_taken() -> None:
    made = run("a", {"fisher/trace": [4.0, 8.0], "fisher/trace_stderr": [1.0, 2.0, 3.0]})
    late = replace(made.curves["fisher/trace"], steps=np.array([10, 25]))
    made = replace(made, curves={**made.curves, "fisher/trace": late})
    np.testing.assert_array_equal(errors_around(made, "fisher/trace"), [4.0, np.nan])


# panels of measures


def test_sections_follow_what_comes_first_and_a_chart_without_values_is_missing(
    tmp_path: Path,
) -> None:
    values = {
        "curvature/loss": [1.0, 2.0],
        "gauss_newton/distance": [0.5, 0.25],
        "fisher/overlap": [np.nan, np.nan],
        "curvature/trace": [1.0, 2.0],
    }
    assert titles(page(tmp_path, [run("a", values)])) == [
        "loss on the probe",
        "Spectrum",
        "trace of the Hessian (log axis)",
        "Gauss-Newton and Fisher",
        "distance of Hessian and Gauss-Newton",
    ]


def test_would_be_steps_are_beside_the_step_itself() -> None:
    names = ["step/directional_sharpness", "step/adam/directional_sharpness", "step/x/other"]
    made = run("a", {name: [1.0, 2.0] for name in names})
    panel = charts_of([made])[1]
    assert panel.title == "directional sharpness, and that of other optimizers' steps"
    assert [line.label for line in lines_of(made, panel)] == ["", "adam"]


# logs


def test_histograms_of_event_files_are_read_back_and_those_of_the_user_are_not(tmp_path: Path) -> None:
    writer = SummaryWriter(tmp_path / "run")
    for step, factor in ((0, 1.0), (5, 2.0), (5, 3.0)):
        writer.add_scalar("curvature/loss", 1.0, step)
        for tag in (DENSITY, "mine"):
            writer.add_histogram_raw(
                tag,
                min=EDGES[0],
                max=EDGES[-1],
                num=3,
                sum=1.0,
                sum_squares=1.0,
                bucket_limits=EDGES[1:].tolist(),
                bucket_counts=(factor * WEIGHTS).tolist(),
                global_step=step,
            )
    writer.close()
    (found,), _ = read_runs([tmp_path])
    assert list(found.densities) == [DENSITY]
    density = found.densities[DENSITY]
    assert density.steps.tolist() == [0, 5]  # of one step the last counts
    np.testing.assert_array_equal(density.histograms[1].weights, 3.0 * WEIGHTS)
    np.testing.assert_array_equal(density.histograms[1].edges, EDGES)


@pytest.mark.parametrize(
    ("edges", "weights"),
    [
        ([0.0], []),
        ([0.0, 1.0], [1.0, 2.0]),
        ([0.0, 0.0], [1.0]),
        ([1.0, 0.0], [1.0]),
        ([0.0, math.inf], [1.0]),
        ([0.0, 1.0], [-1.0]),
    ],
)
def test_histograms_that_cannot_be_drawn_are_left_out(edges: list[float], weights: list[float]) -> None:
    assert make_histogram(edges, weights) is None


# the terminal


def shown(tmp_path: Path, history: History, width: int = 80, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    console = Console(file=file, width=width, height=60, highlight=False)
    show(history.save(tmp_path / "run"), console=console)
    file.seek(0)
    return file.read()


@pytest.mark.parametrize("width", [30, 80, 120])
def test_the_terminal_draws_densities_and_layers(tmp_path: Path, width: int) -> None:
    history = History()
    for step in (0, 10):
        values = {f"curvature/layer/net.{i}/sharpness": float(i) for i in range(13)}
        history.record(step, values, {DENSITY: Histogram(EDGES, WEIGHTS)})
    text = shown(tmp_path, history, width)
    assert max(map(len, text.splitlines())) <= width
    assert "density of the eigenvalue" in text
    assert "sharpness of each layer" in text
    row = next(line for line in text.splitlines() if "net.12│" in line)
    assert set(row.partition("net.12│")[2].rstrip()) == {"█"}
    assert "█" not in shown(tmp_path, history, encoding="ascii")


def test_following_a_run_shows_what_fits(tmp_path: Path) -> None:
    history = History()
    values = {f"curvature/layer/net.{i}/sharpness": 1.0 for i in range(13)}
    history.record(0, {"curvature/loss": 1.0, **values}, {DENSITY: Histogram(EDGES, WEIGHTS)})
    from curvwatch.report.terminal.run_view import view

    file = io.StringIO()
    console = Console(file=file, width=80, height=24, highlight=False)
    (found,), _ = find_runs([history.save(tmp_path / "run")])
    console.print(view(read_run(found, "run"), console=console, height=24))
    assert len(file.getvalue().splitlines()) <= 24


def test_values_of_layers_that_are_all_missing_are_no_map() -> None:
    heat = layer_map({"a": np.full(2, np.nan)}, rows=1, columns=2)
    assert np.isnan(heat.shades).all()
