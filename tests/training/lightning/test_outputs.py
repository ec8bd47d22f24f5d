"""Where readings go: every logger, other callbacks, the progress bar; and at which step."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import (
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
)
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from curvwatch import CurvatureMonitor
from tests.support.modules import (
    LANDSCAPE,
    SPREAD,
    STEP,
    Classifier,
    ListLogger,
    adam,
    batches,
    examples,
    fit,
    is_ours,
    sgd,
)

OURS = LANDSCAPE | STEP


def watched(monitor: CurvatureMonitor, module: Classifier | None = None, **options: Any) -> ListLogger:
    logger = ListLogger()
    fit(module or Classifier(), monitor, logger=logger, **options)
    return logger


@pytest.mark.parametrize("optimizer", [sgd, adam])
def test_every_row_has_the_names_of_the_contract(optimizer: Any) -> None:
    """Constant from the first row on, where Adam has no step to take a preconditioner from."""
    monitor = CurvatureMonitor(every_n_steps=1)
    logger = watched(monitor, Classifier(optimizer=optimizer))
    rows = [{k for k in m if is_ours(k)} for _, m in logger.rows]
    assert [row for row in rows if row] == [OURS] * 6
    assert set(monitor.history) == OURS


def test_names() -> None:
    """DESIGN.md's two tables, letter by letter, and how sure the sharpness is."""
    assert {
        "curvature/loss",
        "curvature/sharpness",
        "curvature/sharpness_x_lr",
        "curvature/edge",
        "curvature/effective_sharpness",
        "curvature/effective_edge",
        "curvature/stability_ratio",
        "curvature/residual",
        "curvature/cost_hvps",
        "curvature/cost_seconds",
        "curvature/cost_share",
    } == LANDSCAPE
    assert {"curvature/sharpness_stderr"} == SPREAD
    assert {
        "step/gradient_correlation",
        "step/gradient_cosine",
        "step/directional_sharpness",
        "step/predicted_loss_change",
        "step/loss_change",
        "step/relative_loss_change",
        "step/stability_ratio",
        "step/update_norm",
        "step/relative_update",
    } == STEP


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_step_is_that_of_self_log(accumulate: int) -> None:
    """The loss that is read on the batch of each step is the one that the user logs there."""
    same = torch.utils.data.Subset(examples(4), [0, 1, 2, 3] * 4)
    data = DataLoader(same, batch_size=4)
    monitor = CurvatureMonitor(every_n_steps=1, probe="current")
    logger = watched(monitor, data=data, max_epochs=2, accumulate_grad_batches=accumulate)
    steps = list(range(8 // accumulate))
    for name in ("train_loss", "curvature/loss", "step/loss_change"):
        assert logger.steps(name) == steps
    losses = logger.values("train_loss")
    assert logger.values("curvature/loss") == losses
    changes = logger.values("step/loss_change")
    # a sum of two halves rounds in another place
    np.testing.assert_allclose(changes[:-1], np.diff(losses), atol=2e-7)


def test_a_loss_that_depends_on_the_step_is_read_as_it_is_trained() -> None:
    class Annealed(Classifier):
        def loss(self, batch: Any) -> torch.Tensor:
            return super().loss(batch) * (1 + self.trainer.global_step)

    monitor = CurvatureMonitor(every_n_steps=1, probe="current")
    logger = watched(monitor, Annealed())
    assert logger.values("curvature/loss") == logger.values("train_loss")
    # d = -lr g, so the gradient that is read is the one that made the step
    slope, length = (
        monitor.history[f"step/{name}"].values for name in ("gradient_correlation", "update_norm")
    )
    np.testing.assert_allclose(length, -0.1 * slope, rtol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_a_reading_every_n_steps(n: int) -> None:
    logger = watched(CurvatureMonitor(every_n_steps=n), max_epochs=2)
    due = list(range(0, 12, n))
    assert logger.steps("curvature/sharpness") == due
    assert logger.steps("step/stability_ratio") == due


def test_a_measure_may_have_a_cadence_of_its_own() -> None:
    from curvwatch import Sharpness, StepGeometry

    monitor = CurvatureMonitor([Sharpness(every_n_steps=4), StepGeometry()], every_n_steps=2)
    logger = watched(monitor)
    assert logger.steps("curvature/sharpness") == [0, 4]
    assert logger.steps("step/stability_ratio") == [0, 2, 4]


@pytest.mark.parametrize(("measure", "names"), [("sharpness", LANDSCAPE), ("step_geometry", STEP)])
def test_one_measure_alone(measure: str, names: set[str]) -> None:
    monitor = CurvatureMonitor([measure], every_n_steps=2)
    watched(monitor)
    assert set(monitor.history) == names


def test_several_loggers_get_the_same_numbers(tmp_path: Path) -> None:
    rows, table, monitor = ListLogger(), CSVLogger(tmp_path), CurvatureMonitor(every_n_steps=2)
    fit(Classifier(optimizer=adam), monitor, logger=[table, rows])
    with (Path(table.log_dir) / "metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    for name in OURS:
        steps, values = monitor.history[name]
        assert steps.tolist() == rows.steps(name) == [0, 2, 4]
        np.testing.assert_array_equal(values, rows.values(name))
        in_file = [(int(line["step"]), float(line[name])) for line in lines if line[name]]
        assert [s for s, _ in in_file] == [0, 2, 4]
        np.testing.assert_array_equal(values, [v for _, v in in_file])


def test_other_callbacks_can_monitor_it(tmp_path: Path) -> None:
    monitor = CurvatureMonitor(every_n_steps=1)
    stopping = EarlyStopping(
        "curvature/sharpness", mode="max", stopping_threshold=0.0, check_on_train_epoch_end=True
    )
    keeping = ModelCheckpoint(
        tmp_path, monitor="curvature/sharpness", mode="max", every_n_train_steps=1, save_top_k=1
    )
    trainer = fit(Classifier(), monitor, stopping, keeping, max_epochs=3, enable_checkpointing=True)
    assert trainer.current_epoch == 1
    steps, values = monitor.history["curvature/sharpness"]
    assert steps.tolist() == list(range(6))
    assert float(keeping.best_model_score) == np.float32(values.max())
    for name in OURS:
        latest = monitor.history.latest(name)
        assert float(trainer.callback_metrics[name]) == np.float32(latest), name


class SignSGD(torch.optim.Optimizer):
    """An optimizer without a law."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.01})

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p -= 0.01 * p.grad.sign()
        return loss


class SeenBar(ProgressBar):
    """Keeps what a bar shows after each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.shown.append(self.get_metrics(trainer, module))


@pytest.mark.parametrize(
    ("optimizer", "shown"), [(sgd, "curvature/stability_ratio"), (SignSGD, "step/stability_ratio")]
)
def test_the_progress_bar_shows_the_stability_ratio(optimizer: Any, shown: str) -> None:
    """The landscape's; the step's where the optimizer has no edge."""
    monitor, bar = CurvatureMonitor(every_n_steps=2), SeenBar()
    fit(Classifier(optimizer=optimizer), monitor, bar, enable_progress_bar=True)
    steps, values = monitor.history[shown]
    assert steps.tolist() == [0, 2, 4]
    assert [s["stability_ratio"] for s in bar.shown] == np.float32(values).repeat(2).tolist()


def test_an_optimizer_without_a_law_gets_no_edge() -> None:
    monitor = CurvatureMonitor(every_n_steps=2)
    watched(monitor, Classifier(optimizer=SignSGD))
    for name in ("effective_sharpness", "effective_edge", "stability_ratio"):
        assert np.isnan(monitor.history[f"curvature/{name}"].values).all()
    assert np.isfinite(monitor.history["curvature/sharpness"].values).all()
    assert any("SignSGD" in note.text for note in monitor.history.notes)


# names of several optimizers and groups


class ByHand(Classifier):
    """Several optimizers, each stepped in each batch."""

    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        first, last = self.net[0], self.net[3]
        SGD, Adam = torch.optim.SGD, torch.optim.Adam
        return [
            SGD([first.weight], lr=0.1),
            SGD([first.bias], lr=0.2),
            Adam(
                [
                    {"params": [last.weight], "lr": 0.3},
                    {"params": [last.bias], "lr": 0.4, "name": "bias"},
                ]
            ),
        ]


def test_suffixes_are_those_of_the_learning_rate_monitor() -> None:
    rates = LearningRateMonitor(logging_interval="step")
    monitor = CurvatureMonitor(every_n_steps=1, loss_fn=lambda module, batch: module.loss(batch))
    logger = ListLogger()
    fit(ByHand(), rates, monitor, logger=logger)
    names = {n for n in logger.keys() if n.startswith("lr-")}  # noqa: SIM118
    assert names == {"lr-SGD", "lr-SGD-1", "lr-Adam/pg1", "lr-Adam/bias"}
    for name in names:
        rate = logger.values(name)[-1]
        edge = logger.values("curvature/edge" + name.removeprefix("lr"))[-1]
        assert edge == pytest.approx(2 / rate)
    optimizers = ["-SGD", "-SGD-1", "-Adam"]
    groups = {"curvature/edge-Adam/pg1", "curvature/edge-Adam/bias"}
    costs = {n for n in LANDSCAPE if "cost" in n}
    assert set(monitor.history) == groups | costs | {
        name + suffix for name in OURS - costs for suffix in optimizers
    }
    for suffix in optimizers:
        assert np.isfinite(monitor.history["curvature/sharpness" + suffix].values).all()
        assert logger.steps("step/loss_change" + suffix) == list(range(6))


def test_groups_of_one_optimizer_have_an_edge_each() -> None:
    def grouped(params: Any) -> torch.optim.Optimizer:
        first, *rest = params
        return torch.optim.SGD([{"params": [first], "lr": 0.5}, {"params": rest}], lr=0.1)

    rates = LearningRateMonitor(logging_interval="step")
    logger = ListLogger()
    fit(Classifier(optimizer=grouped), rates, CurvatureMonitor(every_n_steps=1), logger=logger)
    for group in ("/pg1", "/pg2"):
        assert logger.values(f"curvature/edge{group}") == [
            2 / rate for rate in logger.values(f"lr-SGD{group}")
        ]
    assert set(logger.values("curvature/edge")) == {2 / 0.5}


# the probe


def test_a_probe_of_your_own_reads_as_the_same_batches_from_the_loader() -> None:
    """Converted and moved as Lightning does it, also where the module or the precision has a say."""

    class Scaled(Classifier):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return 2 * batch[0], batch[1]

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch[0] + 1, batch[1]

    histories = []
    for probe in ("first", [next(iter(batches()))]):
        torch.manual_seed(0)
        monitor = CurvatureMonitor(every_n_steps=1, probe=probe)
        fit(Scaled(), monitor, precision="64-true")
        histories.append(monitor.history["curvature/sharpness"].values)
    assert len(histories[0]) == 6
    np.testing.assert_array_equal(*histories)


def test_several_probe_batches_are_the_mean_over_their_examples() -> None:
    monitor = CurvatureMonitor(every_n_steps=1, probe_batches=2)
    torch.manual_seed(0)
    data = DataLoader(examples(7), batch_size=4)  # 4 and 3
    watched(monitor, data=data, max_epochs=2)
    assert monitor.history["curvature/loss"].steps.tolist() == [1, 2, 3]
    assert set(monitor.history) == OURS | SPREAD
    assert (monitor.history["curvature/sharpness_stderr"].values > 0).all()

    whole = CurvatureMonitor(every_n_steps=1, probe=[examples(7)[:]])
    torch.manual_seed(0)
    watched(whole, data=data, max_epochs=2)
    for name in ("curvature/loss", "curvature/sharpness"):
        ours, theirs = monitor.history[name].values, whole.history[name].values[1:]
        np.testing.assert_allclose(ours, theirs, rtol=2e-3)


def test_eval_mode_measures_without_dropout() -> None:
    from tests.support.modules import mlp

    values = []
    for dropout in (0.0, 0.5):
        torch.manual_seed(0)
        monitor = CurvatureMonitor(["sharpness"], every_n_steps=1, mode="eval")
        watched(monitor, Classifier(mlp(dropout)), max_steps=1)
        values.append(monitor.history["curvature/loss"].values)
    np.testing.assert_array_equal(*values)


# TensorBoard


def events(directory: str) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(directory, size_guidance={"scalars": 0, "tensors": 0})
    return accumulator.Reload()


def test_tensorboard_has_the_scalars_and_a_custom_page(tmp_path: Path) -> None:
    import re

    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

    logger, monitor = TensorBoardLogger(tmp_path), CurvatureMonitor(every_n_steps=2)
    fit(Classifier(optimizer=adam), monitor, logger=logger)
    read = events(logger.log_dir)
    for name in OURS:
        steps, values = monitor.history[name]
        assert [e.step for e in read.Scalars(name)] == steps.tolist()
        np.testing.assert_array_equal([e.value for e in read.Scalars(name)], values.astype(np.float32))
    # sub-runs, as of add_scalars, would each be a run of its own in the dashboard
    assert [p for p in Path(logger.log_dir).iterdir() if p.is_dir()] == []

    (event,) = read.Tensors("custom_scalars__config__")
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    assert [c.title for c in layout.category] == ["Stability", "Steps", "Cost", "Spectrum"]
    charts = [chart for category in layout.category for chart in category.chart]
    tags = read.Tags()["scalars"]
    shown = []
    for chart in charts:
        margin = [tag for s in chart.margin.series for tag in (s.value, s.lower, s.upper)]
        assert set(margin) <= set(tags)
        for regex in chart.multiline.tag:
            assert sum(bool(re.match(regex, tag)) for tag in tags) == 1, regex
        shown.append({tag for tag in tags for regex in chart.multiline.tag if re.match(regex, tag)})
        assert margin or shown[-1], chart.title
    assert {"curvature/sharpness", "curvature/edge"} in shown
    assert {"curvature/effective_sharpness", "curvature/effective_edge"} in shown
    for name in ("curvature/stability_ratio", *STEP & {"step/stability_ratio"}):
        assert {name} in shown
    assert {"step/gradient_correlation"} in shown
    assert {"step/directional_sharpness"} in shown


def test_the_custom_page_finds_several_optimizers_and_groups() -> None:
    import re

    from curvwatch.results.loggers.tensorboard import layout

    names = ["", "-SGD", "-SGD-1", "/pg1", "-Adam/pg2", "-Adam/bias"]
    charts = layout("curvature/edge" + n for n in names)["Stability"]
    (regex,) = [r for _, tags in charts.values() for r in tags if r.startswith("^curvature/edge")]
    assert all(re.match(regex, "curvature/edge" + n) for n in names)
    assert not re.match(regex, "curvature/edge_of_the_world")


# the history


def test_history() -> None:
    monitor = CurvatureMonitor(every_n_steps=2)
    assert repr(monitor.history) == "History(0 metrics, 0 readings)"
    watched(monitor)
    history = monitor.history
    series = history["curvature/sharpness"]
    steps, values = series
    assert steps is series.steps
    assert values is series.values
    assert (steps.dtype, values.dtype) == (np.int64, np.float64)
    assert steps.shape == values.shape == (3,)
    assert len(history) == len(OURS)
    assert "curvature/sharpness" in history
    assert "curvature/nonsense" not in history
    assert repr(history) == f"History({len(OURS)} metrics, 3 readings)"
    assert history.latest("curvature/sharpness") == values[-1]
    assert math.isnan(history.latest("curvature/nonsense"))
    plain = history.to_dict()
    assert set(plain) == OURS
    assert plain["curvature/sharpness"] == {"steps": [0, 2, 4], "values": values.tolist()}
    values[:] = 0.0  # a copy
    assert history["curvature/sharpness"].values[0] != 0.0


def test_a_metric_that_is_not_there_is_named_with_those_that_are() -> None:
    monitor = CurvatureMonitor(["step_geometry"])
    with pytest.raises(
        KeyError, match="no reading of 'curvature/x'; there are readings of nothing yet"
    ):
        monitor.history["curvature/x"]
    watched(monitor)
    with pytest.raises(KeyError, match=r"'curvature/sharpness'; .* of step/directional_sharpness, "):
        monitor.history["curvature/sharpness"]


@pytest.mark.parametrize("suffix", ["", "-SGD"])
def test_history_plots(suffix: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from curvwatch import History

    monitor = CurvatureMonitor(every_n_steps=2)
    watched(monitor, Classifier(optimizer=adam))
    history = History()
    for name, series in monitor.history.to_dict().items():
        for step, value in zip(series["steps"], series["values"], strict=True):
            history.record(step, {name + suffix: value})
    figure = history.plot()
    figure.canvas.draw()
    lines = {line.get_label(): line for axes in figure.axes for line in axes.lines}
    for name in ("curvature/sharpness", "curvature/stability_ratio", "step/directional_sharpness"):
        np.testing.assert_array_equal(lines[name + suffix].get_xdata(), [0, 2, 4])
        np.testing.assert_array_equal(lines[name + suffix].get_ydata(), monitor.history[name].values)


def test_an_empty_history_plots() -> None:
    from curvwatch import History

    figure = History().plot()
    figure.canvas.draw()
    assert len(figure.axes) == 4
    assert not any(axes.get_legend() for axes in figure.axes)  # nothing is named


def test_the_dataset_is_what_the_probe_says() -> None:
    """The probe is the first batch of the run, whatever comes later."""
    x, y = examples(4)[:]
    data = DataLoader(TensorDataset(torch.cat([x, 9 * x]), torch.cat([y, y])), batch_size=4)
    losses = []
    for loader in (data, DataLoader(TensorDataset(x, y), batch_size=4)):
        torch.manual_seed(0)
        monitor = CurvatureMonitor(["sharpness"], every_n_steps=1)
        watched(monitor, Classifier(optimizer=lambda p: sgd(p, lr=0.0)), data=loader, max_steps=4)
        losses.append(set(monitor.history["curvature/loss"].values))
    assert losses[0] == losses[1]
    assert len(losses[0]) == 1
