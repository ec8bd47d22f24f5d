"""What TensorBoard gets beside the scalars: charts, error bands, hyperparameters, alerts, figures."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from curvwatch import Alert, CurvatureMonitor, History, Rule, Sharpness, StepGeometry
from curvwatch.charts.run_figures import plot_story, story_pixels
from curvwatch.measures import COST_METRICS
from curvwatch.results.loggers import hyperparameters
from curvwatch.results.loggers.loggers import _log_missing_matplotlib
from curvwatch.results.loggers.tensorboard import alert_table, error_bands, layout
from curvwatch.results.loggers.tensorboard_hparams import FIRST
from tests.support.modules import Classifier, ListLogger, adam, fit, sgd, told
from tests.support.studies import only

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

ALL = [*Sharpness.metrics, *Sharpness.sampling_metrics, *StepGeometry.metrics, *COST_METRICS]
ALWAYS = Rule("always", "step/update_norm", above=0.0, for_readings=1, meaning="for this test")


def read(folder: str | Path) -> Any:
    events = accumulator.EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0})
    return events.Reload()


def columns_and_values(folder: str | Path) -> tuple[dict[str, bool], list[str], dict[str, Any]]:
    """The HParams page as TensorBoard takes it from a run: columns, metrics, values."""
    from tensorboard.plugins.hparams import metadata

    events = read(folder)
    start = metadata.parse_session_start_info_plugin_data(
        events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    )
    listed = metadata.parse_experiment_plugin_data(
        events.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    )
    values = {name: getattr(v, v.WhichOneof("kind")) for name, v in start.hparams.items()}
    columns = {info.name: info.differs for info in listed.hparam_infos}
    return columns, [info.name.tag for info in listed.metric_infos], values


class WithHparams(Classifier):
    """Lightning logs these hyperparameters when fit begins."""

    def __init__(self, width: int, optimizer: Any = sgd) -> None:
        super().__init__(optimizer=optimizer)
        self.save_hyperparameters("width")


# the page of charts


def test_sections_and_charts_are_those_of_the_metrics_of_the_run() -> None:
    assert list(layout(ALL)) == ["Stability", "Steps", "Cost", "Spectrum"]
    assert list(layout(StepGeometry.metrics)) == ["Steps"]
    assert "standard error of sharpness over batches" not in layout(Sharpness.metrics)["Spectrum"]
    assert layout([]) == {}


def test_a_margin_has_exact_names_for_each_optimizer() -> None:
    charts = layout(["curvature/sharpness-SGD", "curvature/sharpness-Adam"])["Stability"]
    names = ["curvature/sharpness", "curvature/sharpness_low", "curvature/sharpness_high"]
    for suffix in ("SGD", "Adam"):
        expected = ["Margin", [f"{name}-{suffix}" for name in names]]
        assert charts[f"sharpness with its error ({suffix})"] == expected
    assert layout(ALL)["Stability"]["sharpness with its error"] == ["Margin", names]


def test_error_bands() -> None:
    values = {"curvature/sharpness": -4.0, "curvature/residual": 0.25, "curvature/loss": 1.0}
    assert error_bands(values) == {"curvature/sharpness_low": -5.0, "curvature/sharpness_high": -3.0}
    # of one batch alone the error is the solver's; several add two standard errors of their mean
    several = {**values, "curvature/sharpness_stderr": 0.5}
    assert error_bands(several)["curvature/sharpness_high"] == -2.0
    suffixed = {name + "-Adam": value for name, value in several.items()}
    assert error_bands(suffixed)["curvature/sharpness_low-Adam"] == -6.0
    assert error_bands({"curvature/sharpness_x_lr": 1.0}) == {}
    missing = error_bands({"curvature/sharpness": math.nan, "curvature/residual": math.nan})
    assert all(map(math.isnan, missing.values()))  # a chart needs as many of each


def test_error_bands_go_to_tensorboard_alone(tmp_path: Path) -> None:
    board, table, rows = TensorBoardLogger(tmp_path), CSVLogger(tmp_path), ListLogger()
    monitor = CurvatureMonitor(every_n_steps=2)
    trainer = fit(Classifier(), monitor, logger=[table, board, rows])
    events = read(board.log_dir)
    values = monitor.history["curvature/sharpness"].values
    error = np.abs(values) * monitor.history["curvature/residual"].values
    for name, expected in (("low", values - error), ("high", values + error)):
        scalars = events.Scalars(f"curvature/sharpness_{name}")
        assert [e.step for e in scalars] == [0, 2, 4]
        np.testing.assert_allclose([e.value for e in scalars], expected, rtol=1e-6)
    elsewhere = [Path(table.log_dir, "metrics.csv").read_text(), str(rows.rows)]
    elsewhere += [str(list(monitor.history)), str(list(trainer.callback_metrics))]
    assert not any("sharpness_low" in text for text in elsewhere)


# hyperparameters


def weights(n: int) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(2)) for _ in range(n)]


def test_hyperparameters_of_one_optimizer() -> None:
    optimizer = torch.optim.AdamW(weights(1), lr=0.1, betas=(0.8, 0.9), weight_decay=0.5)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 0.0)  # a warmup begins
    assert hyperparameters([optimizer], [""]) == {
        "optimizer/class": "AdamW",
        "optimizer/lr": 0.1,
        "optimizer/beta1": 0.8,
        "optimizer/beta2": 0.9,
        "optimizer/eps": 1e-8,
        "optimizer/weight_decay": 0.5,
        "optimizer/amsgrad": False,
    }


def test_hyperparameters_of_groups_and_several_optimizers() -> None:
    a, b, c = weights(3)
    groups = [{"params": [a], "lr": torch.tensor(0.5)}, {"params": [b], "name": "head"}]
    grouped = torch.optim.SGD(groups, lr=0.25, momentum=0.9)
    found = hyperparameters([grouped, torch.optim.Adam([c])], ["-SGD", "-Adam"])
    assert found["optimizer-SGD/lr/pg1"] == 0.5
    assert found["optimizer-SGD/lr/head"] == 0.25
    assert found["optimizer-SGD/momentum"] == 0.9
    assert "optimizer-SGD/lr" not in found
    assert found["optimizer-Adam/class"] == "Adam"


@pytest.mark.parametrize("default_hp_metric", only([True, False], take=[True]))
def test_a_run_without_hyperparameters_gets_those_of_the_optimizer(
    tmp_path: Path, default_hp_metric: bool
) -> None:
    logger = TensorBoardLogger(tmp_path, default_hp_metric=default_hp_metric)
    fit(Classifier(), CurvatureMonitor(every_n_steps=2), logger=logger)
    columns, metrics, values = columns_and_values(logger.log_dir)
    assert values["optimizer/class"] == "SGD"
    assert values["optimizer/lr"] == 0.1
    assert metrics == ["curvature/stability_ratio", "curvature/sharpness", "curvature/loss"]
    # TensorBoard takes the columns of all runs from one of them
    assert columns["optimizer/lr"]
    assert "optimizer/beta1" in columns
    assert not (Path(logger.log_dir) / FIRST).exists()


def test_what_lightning_logged_stays_and_ours_is_beside_it(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    fit(WithHparams(width=3), CurvatureMonitor(every_n_steps=2), logger=logger)
    columns, metrics, values = columns_and_values(logger.log_dir)
    assert (values["width"], values["optimizer/class"], values["optimizer/lr"]) == (3.0, "SGD", 0.1)
    assert metrics[0] == "hp_metric"
    assert "curvature/stability_ratio" in metrics
    assert columns["width"]
    assert columns["optimizer/class"]
    # a run that goes on in the same folder
    fit(WithHparams(width=3), CurvatureMonitor(every_n_steps=2), logger=logger)
    assert columns_and_values(logger.log_dir) == (columns, metrics, values)


def test_a_users_own_hyperparameters_are_not_shadowed(tmp_path: Path) -> None:
    """Lightning is told not to log them, so the user will, at any time."""

    class LogsAtTheEnd(WithHparams):
        def on_train_end(self) -> None:  # after the monitor's
            self.logger.log_hyperparams({"width": 4}, {"accuracy": 0.5})

    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    fit(LogsAtTheEnd(width=3), CurvatureMonitor(every_n_steps=2), logger=logger)
    columns, metrics, values = columns_and_values(logger.log_dir)
    assert (list(columns), metrics, values) == (["width"], ["accuracy"], {"width": 4.0})


def test_a_name_that_the_user_took_keeps_its_value(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_hyperparams({"optimizer": {"lr": "mine"}})
    fit(Classifier(), CurvatureMonitor(every_n_steps=2), logger=logger)
    _, _, values = columns_and_values(logger.log_dir)
    assert (values["optimizer/lr"], values["optimizer/class"]) == ("mine", "SGD")


# alerts


def test_a_table_of_alerts_shows_texts_as_they_are() -> None:
    alerts = [
        Alert("a|b", "step/x", 3, 1.23456, "first `code` *bold*\n| <script> & [link](x)"),
        Alert("not_finite", "curvature/loss", 7, math.nan, "second"),
    ]
    markdown = pytest.importorskip("markdown")
    table = alert_table(alerts)
    html = markdown.markdown(table, extensions=["markdown.extensions.tables"])
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in html.split("<tr>")[2:]]
    assert rows == [
        ["3", "a|b", "step/x", "1.235", "first `code` *bold* | &lt;script&gt; &amp; [link](x)"],
        ["7", "not_finite", "curvature/loss", "nan", "second"],
    ]


def test_all_alerts_so_far_are_in_each_text(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    often = Rule("often", "step/update_norm", above=0.0, for_readings=2, meaning="again")
    monitor = CurvatureMonitor(every_n_steps=2, rules=[ALWAYS, often])
    fit(Classifier(), monitor, logger=logger)
    texts = read(logger.log_dir).Tensors("curvwatch/alerts/text_summary")
    assert [e.step for e in texts] == [a.step for a in monitor.alerts] == [0, 2]
    first, both = (e.tensor_proto.string_val[0].decode() for e in texts)
    assert both == alert_table(monitor.alerts)
    assert both.startswith(first)
    assert first.count("\n") == 2


# the story of the run


def story_of(module: Classifier, tmp_path: Path, **options: Any) -> tuple[Any, CurvatureMonitor]:
    logger = TensorBoardLogger(tmp_path)
    monitor = CurvatureMonitor(every_n_steps=2, rules=[ALWAYS])
    fit(module, monitor, logger=logger, **options)
    return read(logger.log_dir), monitor


def test_the_story_is_drawn_at_the_end(tmp_path: Path) -> None:
    events, monitor = story_of(Classifier(optimizer=adam), tmp_path)
    (image,) = events.Images("curvwatch/run")
    assert image.step == 4
    assert (image.width, image.height) == (1600, 800)
    figure = plot_story(monitor.history, monitor.alerts)
    assert [axes.get_title() for axes in figure.axes][:3] == [
        "Loss on the probe",
        "Sharpness against its edge",
        "Stability ratio: 1 is the edge",
    ]
    for axes in figure.axes:
        lines = {line.get_label(): line for line in axes.lines}
        assert list(lines["_alert"].get_xdata()) == [0, 0]
        assert any(name.startswith(("curvature/", "step/")) for name in lines)
    assert "first at step 0): always" in figure.get_suptitle()


def test_a_story_of_nothing_and_of_strange_names_is_drawn() -> None:
    assert story_pixels(History()).shape == (800, 1600, 3)
    history = History()
    history.record(1, {"curvature/loss-$\\bad$": -1.0, "curvature/sharpness": math.nan})
    drawn = story_pixels(history, [Alert("$x_$", "m", 1, 2.0, "t")])
    assert drawn.dtype == np.uint8
    assert drawn.std() > 0


def test_a_run_that_fails_has_its_story(tmp_path: Path) -> None:
    class Fails(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 4:
                raise RuntimeError("mine")
            return super().training_step(batch, batch_idx)

    with pytest.raises(RuntimeError, match="mine"):
        story_of(Fails(), tmp_path)
    (folder,) = tmp_path.glob("lightning_logs/version_0")
    assert len(read(folder).Images("curvwatch/run")) == 1
    assert columns_and_values(folder)[2]["optimizer/class"] == "SGD"


def test_a_figure_that_cannot_be_drawn_is_told_and_the_run_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise ValueError("no font")

    monkeypatch.setattr("curvwatch.charts.run_figures.story_pixels", fails)
    with told() as texts:
        events, _ = story_of(Classifier(), tmp_path)
    assert texts == ["curvwatch: drawing the run to TensorBoardLogger failed: ValueError: no font"]
    assert columns_and_values(events.path)[2]["optimizer/lr"] == 0.1


def test_without_matplotlib_one_hint_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    _log_missing_matplotlib.cache_clear()
    for name in ("first", "second"):
        events, _ = story_of(Classifier(), tmp_path / name)
        assert events.Tags()["images"] == []
    hints = [r.message for r in caplog.records if "matplotlib" in r.message]
    assert hints == [
        "curvwatch logs no figures of the run, because matplotlib is not installed: "
        "pip install 'curvwatch[report]'"
    ]
